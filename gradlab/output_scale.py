"""Warnings about outputs and targets on a wrong scale, for example probabilities instead of logits.

The results of such a model are those of another model (a sigmoid that is read as a logit gives probabilities from 0.5
to 0.73), and nothing in them shows it. The model is not refused, because it may be intended.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import errors, likelihoods
from .latents import PADDING, derived_seed
from .model import LatentModel

ROWS = 8  # codes that are decoded
FEWEST = 10  # outputs; all logits of an untrained model are positive with a probability of at most 2^-10
# the last operation of a graph in torch: its name, and the smallest and largest output
_ENDS = {
    "Sigmoid": ("sigmoid", 0.0, 1.0),
    "Hardsigmoid": ("hard sigmoid", 0.0, 1.0),
    "Softmax": ("softmax", 0.0, 1.0),
    "Tanh": ("tanh", -1.0, 1.0),
    "Relu": ("ReLU", 0.0, float("inf")),
    "Softplus": ("softplus", 0.0, float("inf")),
    "LogSigmoid": ("log-sigmoid", -float("inf"), 0.0),
    "LogSoftmax": ("log-softmax", -float("inf"), 0.0),
}
_SHAPING = {"View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze", "Permute", "Transpose", "T", "Alias"}
_SHAPING |= {"Clone", "Slice", "Select", "Expand", "ToCopy", "AsStrided", "ConstantPadNd", "Clamp", "Unflatten"}


def check(model: LatentModel, x: Tensor, seen: Tensor, logits: Tensor) -> None:
    """Warns if the encoder or a Bernoulli decoder seems to return probabilities, or if targets are far too small.

    `seen` is the input of the encoder, `logits` its output.
    """
    doubts = [_of_encoder(model, seen, logits)]
    if isinstance(model.likelihood, likelihoods.Bernoulli):
        doubts += [_of_decoder(model, x, logits), _of_targets(x)]
    for doubt in filter(None, doubts):
        errors.warn(doubt)


def _of_decoder(model: LatentModel, x: Tensor, logits: Tensor) -> str:
    """The reason why the outputs at some codes are probably not logits, or ""."""
    generator = torch.Generator(logits.device).manual_seed(derived_seed(0, "scale"))
    share = torch.rand(ROWS, model.latents, generator=generator, device=logits.device)
    counts = torch.tensor(model.code_counts, device=logits.device)
    indices = (share * counts).long().minimum(counts - 1)
    with torch.enable_grad():
        codes = model.codes_at(indices, logits.dtype).requires_grad_()
        seen = x[torch.arange(ROWS, device=x.device) % len(x)]
        out = model.decode(codes.clone(), seen)  # a copy, because layers may work in place
    if end := _ends_in(out):
        name, least, greatest = end
        low, high = torch.sigmoid(torch.tensor([least, greatest])).tolist()
        return (
            f"decoder: expected logits, got the output of a {name}; the Bernoulli likelihood applies the sigmoid"
            f" itself, so its probabilities lie between {low:.3g} and {high:.3g} (remove the {name})"
        )
    if _looks_like_probabilities(out.detach().flatten(1)):
        return (
            "decoder: expected logits, got outputs that all lie in [0, 1], as probabilities do; the Bernoulli"
            " likelihood applies the sigmoid itself (return logits)"
        )
    return ""


def _of_encoder(model: LatentModel, seen: Tensor, logits: Tensor) -> str:
    if model.binary:
        with torch.enable_grad():
            some = seen[:2].clone()
            end = _ends_in(model.logits((some.requires_grad_() if some.is_floating_point() else some).clone()))
        if (end and end[0].endswith("sigmoid")) or _looks_like_probabilities(logits):
            return (
                "encoder: expected logits, got outputs that all lie in [0, 1], like probabilities; return logits"
                " (remove the sigmoid), because gradlab applies it"
            )
        return ""
    there = logits > PADDING / 2
    values = logits.masked_fill(~there, 0.0)
    within = torch.finfo(logits.dtype).eps ** 0.5
    if bool(((values >= 0) & (values <= 1)).all() and ((values.sum(-1) - 1).abs() < within).all()):
        return (
            "encoder: expected logits, got the probabilities of each latent, which sum to 1; return logits (remove"
            " the softmax), because gradlab applies it"
        )
    return ""


def _of_targets(x: Tensor) -> str:
    largest = float(x.max())
    if 0 < largest <= 1.0001 / 255:
        return (
            f"x: expected targets in [0, 1], got {largest:.3g} as the largest; were grey values divided by 255 twice?"
        )
    return ""


def _looks_like_probabilities(rows: Tensor) -> bool:
    """True if all outputs are in [0, 1], and there are enough different ones that this is hardly chance."""
    inside = bool(((rows >= 0) & (rows <= 1)).all())
    return inside and rows.shape[1] >= FEWEST and bool((rows != rows[0, 0]).any())


def _ends_in(out: Tensor) -> tuple[str, float, float] | None:
    """The last function of a graph, apart from reshaping and clipping, if it has bounded outputs."""
    node = out.grad_fn
    while node is not None:
        name = type(node).__name__.rstrip("0123456789").removesuffix("Backward")
        if name in _ENDS:
            return _ENDS[name]
        if name not in _SHAPING:
            return None
        node = node.next_functions[0][0]
    return None
