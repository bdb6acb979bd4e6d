"""Warnings of outputs and targets on another scale than the one they are read on: probabilities where logits are due.

Figures of such a model are those of another one (a sigmoid read as a logit makes a probability of 0.5 to 0.73), and
nothing in them shows it. Nothing is refused: a model may be meant like that.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from . import latents, likelihoods
from .latents import PADDING, derived_seed
from .model import LatentModel

ROWS = 8  # codes that are decoded
FEWEST = 10  # outputs; the logits of an untrained model are all positive with probability 2^-10 at most
# the last operation of a graph, as torch calls it: its name and the least and greatest output
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
    """Warn where a Bernoulli decoder, or the encoder, seems to give probabilities, or targets are far too small.

    `seen` is x as the encoder takes it, `logits` those of all of it.
    """
    doubts = [_of_encoder(model, seen, logits)]
    if isinstance(model.likelihood, likelihoods.Bernoulli):
        doubts += [_of_decoder(model, logits), _of_targets(x)]
    for doubt in filter(None, doubts):
        warnings.warn(doubt, stacklevel=2)


def _of_decoder(model: LatentModel, logits: Tensor) -> str:
    """What makes the outputs at some codes look like no logits, "" if nothing does."""
    generator = torch.Generator(logits.device).manual_seed(derived_seed(0, "scale"))
    share = torch.rand(ROWS, model.latents, generator=generator, device=logits.device)
    counts = torch.tensor(model.category_counts, device=logits.device)
    indices = (share * counts).long().minimum(counts - 1)
    with torch.enable_grad():
        codes = latents.codes_at(indices, model.categories, model.binary, logits.dtype).requires_grad_()
        out = model.decode(codes.clone())  # a copy, since layers may work in place
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
            " likelihood applies the sigmoid itself (give the logits)"
        )
    return ""


def _of_encoder(model: LatentModel, seen: Tensor, logits: Tensor) -> str:
    if model.binary:
        with torch.enable_grad():
            some = seen[:2].clone()
            end = _ends_in(model.logits((some.requires_grad_() if some.is_floating_point() else some).clone()))
        if (end and end[0].endswith("sigmoid")) or _looks_like_probabilities(logits):
            return (
                "encoder: expected logits, got outputs that all lie in [0, 1], as probabilities do; give the logits"
                " (remove the sigmoid), since gradlab applies it"
            )
        return ""
    there = logits > PADDING / 2
    values = logits.masked_fill(~there, 0.0)
    within = torch.finfo(logits.dtype).eps ** 0.5
    if bool(((values >= 0) & (values <= 1)).all() and ((values.sum(-1) - 1).abs() < within).all()):
        return (
            "encoder: expected logits, got the probabilities of each latent, which sum to 1; give the logits (remove"
            " the softmax), since gradlab applies it"
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
    """All in [0, 1], and so many and so different that logits seldom are by chance (or because all weights are 0)."""
    inside = bool(((rows >= 0) & (rows <= 1)).all())
    return inside and rows.shape[1] >= FEWEST and bool((rows != rows[0, 0]).any())


def _ends_in(out: Tensor) -> tuple[str, float, float] | None:
    """The function that a graph ends in, up to changes of shape and clipping, if it bounds its outputs."""
    node = out.grad_fn
    while node is not None:
        name = type(node).__name__.rstrip("0123456789").removesuffix("Backward")
        if name in _ENDS:
            return _ENDS[name]
        if name not in _SHAPING:
            return None
        node = node.next_functions[0][0]
    return None
