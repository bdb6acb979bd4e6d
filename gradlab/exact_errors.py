"""What rounding the losses adds to the exact gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from . import decoded, latents, owned
from .latents import derived_seed
from .losses import losses_at
from .model import LatentModel, precision
from .setup import Setup, measured_copy

PROBED = 256  # configurations at which float32 is compared with float64
_SUMS = 8  # roundings of float64 that one difference of conditional losses may add up
_SHAKES = 4  # random changes of a decoder of which the error in float64 is not known
_SAFETY = 2.0  # the changes of four random u were 1.1 to 9 times the error, of MLPs, convolutions, attention and a GRU


@torch.no_grad()
def rounding_errors(setup: Setup, laws: list[tuple[float, str]], dtype: torch.dtype) -> Tensor:
    """Bounds (law, example) on the norm of what rounding the losses to `dtype` adds to `exact_gradients`.

    With d the error of f, centred per example, that of the gradient is (1/tf) p_k (1 - p_k) times the difference of two
    means of d, at most 2 max|d|. The largest |d| is taken from each example's most probable code and configurations
    evenly spread, PROBED in all or more; for float64, that of float32 is scaled by the ratio of their precisions.

    A decoder that runs in its own precision only is not known any better. There |d| is the largest change of f when
    its weights, inputs and outputs are multiplied by 1 + eps u, u uniform in [-1, 1], of a few u, times a factor of
    safety: rounding in a layer is like a change of that size of what the layer is given.

    Sums are float64, and f, centred, enters them with its rounding; p_k = exp(-(gap of k)/t) is off by eps (gap of k)/t
    times itself. Both are small unless float64 itself is asked for, or d happens to be 0.
    """
    model, x = setup.original, setup.x
    kind, logits = model.kind, setup.wide_logits
    spread = torch.linspace(0, model.configurations - 1, PROBED, dtype=torch.float64).long().unique().tolist()
    rows = [latents.configurations(model.latents, model.code_counts, i, i + 1) for i in spread]
    indices = torch.cat([*rows, kind.indices(logits).cpu()]).unique(dim=0).to(x.device)
    if "decoder" in setup.narrow:
        wide, d = _shaken(setup, indices)
    else:
        narrow, wide = (
            losses_at(measured_copy(model, t, x.device), x, indices).double() for t in (torch.float32, torch.float64)
        )
        d = _largest(narrow - wide) * (torch.finfo(dtype).eps / torch.finfo(torch.float32).eps)
    f = _largest(wide)
    rounding = _SUMS * torch.finfo(torch.float64).eps * f
    found = []
    for tf, target in laws:
        t = tf if target == "sampled" else 1.0
        log_p = kind.log_law(logits, t)
        gap = log_p.amax(-1, keepdim=True) - log_p
        p = torch.softmax(-gap, -1)
        off = torch.where(p > 0, p * gap, 0.0)  # of p, in units of eps
        most = latents.CATEGORICAL.hard(p)
        others = torch.where(most > 0, (p * (1 - most)).sum(-1, keepdim=True), 1 - p)  # 1 - p_k, without cancelling
        of_p = off * others + p * (off.sum(-1, keepdim=True) - off)
        of_codes = 2 / t * (p * others * (d + rounding) + of_p * rounding)
        of_gradient = kind.bound(of_codes).flatten(1)
        most = of_gradient.amax(1).clamp(min=torch.finfo(of_gradient.dtype).tiny)  # whose square may underflow
        found.append(most * (of_gradient / most[:, None]).norm(dim=1))
    return torch.stack(found)


def _largest(a: Tensor) -> Tensor:
    """The largest deviation from the mean over configurations: (example, 1, 1) of (example, configuration)."""
    return (a - a.mean(1, keepdim=True)).abs().amax(1)[:, None, None]


def narrowest(setup: Setup) -> torch.dtype:
    """The least precision in which the decoder computes anything: its own, or less inside an autocast."""
    model = setup.in_precision(torch.float64)
    zero = torch.zeros(1, model.latents, dtype=torch.long, device=setup.x.device)
    codes = model.codes_at(zero, precision(model, setup.x))
    with torch.no_grad(), _Precisions() as seen:
        model.decode(codes, setup.x[:1])
    return max({model.narrow["decoder"], *seen.found}, key=lambda dtype: torch.finfo(dtype).eps)


def _shaken(setup: Setup, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (example, configuration), and an estimate (example, 1, 1) of the largest error of their differences."""
    model, x, eps = setup.in_precision(torch.float64), setup.x, torch.finfo(narrowest(setup)).eps
    f = losses_at(model, x, indices).double()
    generator = torch.Generator(x.device).manual_seed(derived_seed(0, "rounding"))
    weights = [p for p in (*model.decoder.parameters(), *_of_likelihood(model)) if p.is_floating_point()]
    kept = [p.detach().clone() for p in weights]
    model.decoder = _Shaken(model.decoder, eps, generator)
    d = torch.zeros_like(f[:, :1, None])
    for _ in range(_SHAKES):
        for p, value in zip(weights, kept, strict=True):
            p.copy_(shaken(value, eps, generator))
        d = torch.maximum(d, _largest(losses_at(model, x, indices).double() - f))
    return f, _SAFETY * d


def _of_likelihood(model: LatentModel) -> list[Tensor]:
    found: list[Tensor] = []
    for part in owned.parts(model.likelihood):
        found += part.parameters() if isinstance(part, nn.Module) else [part]
    return found


def shaken(values: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """Values times 1 + eps u, u uniform in [-1, 1], in their precision."""
    u = torch.rand(values.shape, generator=generator, device=values.device, dtype=torch.float64).mul_(2).sub_(1)
    return (values.double() * (1 + eps * u)).to(values.dtype)


class _Shaken(nn.Module):
    """A decoder with inputs and outputs shaken."""

    def __init__(self, decoder: nn.Module, eps: float, generator: torch.Generator):
        super().__init__()
        self.decoder, self.eps, self.generator = decoder, eps, generator

    def forward(self, *given: Any) -> Any:
        return self._shake(self.decoder(*map(self._shake, given)))

    def _shake(self, value: Any) -> Any:
        return decoded.mapped(lambda t: shaken(t, self.eps, self.generator) if t.is_floating_point() else t, value)


class _Precisions(TorchDispatchMode):
    """Records the floating-point precisions of what torch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.found |= {t.dtype for t in decoded.tensors(out) if t.is_floating_point()}
        return out
