"""What a monitor says in sentences, once each: a training whose gradients are worth nothing looks like any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import nan
from typing import Any

import torch
from torch import Tensor, nn

from ..latents import derived_seed
from ..model import LatentModel
from ..setup import for_encoder, observations
from .rows import tensors

ORTHOGONAL = 0.1  # a cosine whose whole interval is below this
COLLAPSED = 0.99  # of the law of a latent over all examples, on one category
UNMOVED = 3  # measurements at which a schedule gave one temperature


def not_finite(roots: Sequence[nn.Module], x: Any) -> str:
    """The first tensor that has NaN or infinite values, among those of the modules and x; "" if there is none."""
    named = [pair for root in roots for pair in (*root.named_parameters(), *root.named_buffers())]
    named = [(name, of) for name, of in (*named, *(("x", one) for one in tensors(x))) if of.is_floating_point()]
    finite: dict[torch.device, list[Tensor]] = {}
    for _, tensor in named:
        finite.setdefault(tensor.device, []).append(torch.isfinite(tensor).all())
    read = {device: iter(torch.stack(flags).tolist()) for device, flags in finite.items()}  # one wait for a GPU
    return next((name for name, tensor in named if not next(read[tensor.device])), "")


def of_figures(figures: Mapping[str, float], step: int) -> Iterator[tuple[str, str]]:
    """(which alarm, sentence) of the metrics."""
    if figures.get("mean_norm") == figures.get("std_norm") == 0:
        yield (
            "zero",
            f"step {step:,}: the encoder's gradient is exactly 0: every estimate is. Are the codes certain, does the"
            " decoder ignore them, or is something detached?",
        )
        return
    cosine, low, high = (figures.get(f"cosine_debiased{end}", nan) for end in ("", "_low", "_high"))
    if high < ORTHOGONAL:
        how = "points against" if high < -ORTHOGONAL else "is orthogonal to"
        yield (
            "orthogonal",
            f"step {step:,}: the estimate {how} the gradient: cosine {cosine:.2f} [{low:.2f}, {high:.2f}]. Steps along"
            " it do not lower the loss; gradlab.recommend compares estimators and temperatures.",
        )


def of_codes(model: LatentModel, x: Tensor, tf: float, step: int) -> Iterator[tuple[str, str]]:
    """(which alarm, sentence) of the encoder's logits and of their derivative."""
    seen = for_encoder(model, observations(model, x))
    logits = model.logits(seen.clone())
    weights = [p for p in model.encoder.parameters() if p.requires_grad]
    if weights and not _reaches(logits, weights):
        yield (
            "zero",
            f"step {step:,}: the encoder's gradient is exactly 0: its logits do not depend on its weights. Is something"
            " detached, or are all its units off?",
        )
    of_examples = model.kind.law(logits.detach().double(), tf)
    law = of_examples.mean(0)
    if len(x) > 1 and float(law.amax(-1).min()) >= COLLAPSED:
        yield (
            "collapsed",
            f"step {step:,}: codes have collapsed: all {len(x)} examples have the same code with probability"
            f" {float(law.amax(-1).min()):.3f} or more in each latent.",
        )


def _reaches(logits: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether J^T r, for random r, is other than 0 for any weight."""
    if not logits.requires_grad:
        return False
    generator = torch.Generator().manual_seed(derived_seed(0, "alarm"))
    slope = torch.randn(logits.shape, generator=generator).to(logits)
    found = torch.autograd.grad(logits, list(weights), slope, allow_unused=True)
    return any(one is not None and bool((one != 0).any()) for one in found)


class Schedules:
    """Whether temperatures that are given as functions of the step ever change."""

    def __init__(self, given: Mapping[str, Any]):
        self._unmoved = {name: (nan, 0) for name, one in given.items() if callable(one)}  # first value, how often

    def of_temperatures(self, step: int, now: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """(which alarm, sentence) after a measurement at temperatures `now`."""
        for name, (first, count) in list(self._unmoved.items()):
            if count and now[name] != first:
                del self._unmoved[name]
                continue
            self._unmoved[name] = (now[name], count + 1)
            if count + 1 >= UNMOVED:
                yield (
                    f"unmoved {name}",
                    f"step {step:,}: {name} has not moved since the first step: it is {now[name]:g}, though a schedule"
                    " was given. Does the function use the step that it gets?",
                )
