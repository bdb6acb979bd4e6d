"""One run of a layer: rows of logits and noise -> codes and, for a derivative at the codes, the estimate."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import errors
from ...latents import BINARY, LatentKind
from .answers import Answers, Draw, Refused
from .calling import Arguments, line, suited, unchanged
from .places import Layout, Numbers, Place

_NARROW = re.compile("dtype|scalar type")  # in errors of tensors of different precision
# shapes that rows (row, latent[, category]) may be given in: as they are, or with one row for each latent
_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": lambda a: a,
    "latents": lambda a: a.flatten(0, 1),
    "columns": lambda a: a.reshape(-1, 1),
}


def as_given(form: str, logits: Tensor) -> Tensor:
    """Logits (row, latent[, category]) in the shape in which the layer takes them."""
    return _FORMS[form](logits)


def forms(kind: LatentKind) -> list[str]:
    return ["rows", "columns", "latents"] if kind is BINARY else ["rows", "latents"]


@dataclass(frozen=True)
class Layer:
    """The function that a user wrote."""

    name: str
    arguments: Arguments
    discrete: bool
    law: str

    def run(
        self, form: str, logits: Tensor, tf: float, tb: float, draw: Draw, derivative: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Codes z of rows of logits (row, latent[, category]) and dz/dl^T v for a derivative v, both of that shape.

        A layer that holds float32 tensors and refuses float64 is called in float32.

        Raises ValueError, which names the layer, for whatever makes it unusable.
        """
        try:
            return self._run(form, logits, tf, tb, draw, derivative)
        except Exception as error:  # whatever foreign code raises
            errors.pass_on_memory(error)
            if not (logits.dtype == torch.float64 and isinstance(error, RuntimeError) and _NARROW.search(str(error))):
                raise self._named(error, logits) from error
        try:
            found = self._run(form, logits.float(), tf, tb, draw, derivative)
        except Exception as error:
            errors.pass_on_memory(error)
            raise self._named(error, logits) from error
        return found[0].to(logits.dtype), None if found[1] is None else found[1].to(logits.dtype)

    def _run(
        self, form: str, logits: Tensor, tf: float, tb: float, draw: Draw, derivative: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        function = suited(self.arguments.function, logits)
        draw.restart()
        with unchanged(function), torch.enable_grad():
            leaf = logits.detach().clone().requires_grad_()
            given = _FORMS[form](leaf).clone()  # the layer may work in place
            with Answers(draw):
                z = self.codes(function, given, tf, tb)
                estimate = None if derivative is None else self._pulled_back(z, leaf, derivative)
        return z.detach().reshape(logits.shape).to(logits.dtype), estimate

    def codes(self, function: Callable[..., Any], logits: Tensor, tf: float, tb: float) -> Tensor:
        """What `function`, the layer or a copy of it, makes of logits. `Refused` if that is no code."""
        return self._checked(self.arguments(function, logits, tf, tb), logits.shape)

    def _checked(self, z: Any, shape: torch.Size) -> Tensor:
        if isinstance(z, torch.distributions.Distribution):
            raise Refused(f"expected codes, got the distribution {type(z).__name__}; return its rsample()")
        if isinstance(z, tuple | list):
            parts = ", ".join(str(tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__ for one in z)
            raise Refused(
                f"expected one tensor of codes, got a {type(z).__name__} ({parts}); give a function that returns the"
                " codes alone, lambda logits: layer(logits)[0]"
            )
        if not isinstance(z, Tensor):
            keys = f" with {', '.join(map(repr, z))}" if isinstance(z, dict) else ""
            cure = "; give a function that returns the codes alone" if keys else ""
            raise Refused(f"expected a tensor of codes, got a {type(z).__name__}{keys}{cure}")
        if z.shape == shape[:-1] and not z.is_floating_point():
            raise Refused(
                f"expected codes of the shape of its logits, {tuple(shape)}, got whole numbers of shape"
                f" {tuple(z.shape)}, the numbers of categories perhaps, which have no gradient"
            )
        if z.shape != shape:
            raise Refused(f"expected codes of the shape of its logits, {tuple(shape)}, got {tuple(z.shape)}")
        if not z.is_floating_point():
            raise Refused(
                f"expected floating-point codes, which torch can differentiate, got {z.dtype}; one-hot codes have the"
                " gradient of probabilities p as z + p - p.detach()"
            )
        if not bool(torch.isfinite(z).all()):
            raise Refused(
                "expected finite codes, got NaN or infinity from finite logits (does it take probabilities? give lambda"
                " logits: layer(logits.softmax(-1)))"
            )
        return z

    def _pulled_back(self, z: Tensor, leaf: Tensor, derivative: Tensor) -> Tensor:
        if not z.requires_grad:
            raise Refused(
                "expected codes with a gradient to the logits, got codes without one (detach, argmax or no_grad?)"
            )
        v = derivative.detach().reshape(z.shape).to(z.dtype)
        (estimate,) = torch.autograd.grad(z, leaf, v, allow_unused=True)
        if estimate is None:
            raise Refused("expected codes with a gradient to the logits, got a gradient that does not reach them")
        if not bool(torch.isfinite(estimate).all()):
            raise Refused("expected a finite gradient to the logits, got NaN or infinity")
        return estimate.detach()

    def _named(self, error: BaseException, logits: Tensor) -> ValueError:
        if isinstance(error, Refused):
            return ValueError(f"layer: {self.name}: {error}")
        given = f"{tuple(logits.shape)} of {logits.dtype}"
        return ValueError(f"layer: {self.name}: expected a function of logits {given}, got {line(error)}")


@dataclass(frozen=True)
class Plan:
    """How a layer is called for codes of one shape, and which noise its random calls get."""

    form: str
    layouts: tuple[Layout, ...]
    place: Place | None

    def numbers(self, kind: LatentKind, noise: Tensor) -> Numbers:
        return Numbers(kind, noise, self.layouts, self.place)

    def run(
        self,
        layer: Layer,
        kind: LatentKind,
        logits: Tensor,
        noise: Tensor,
        tf: float,
        tb: float,
        v: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """`Layer.run` with noise (array, row, latent[, category])."""
        return layer.run(self.form, logits, tf, tb, self.numbers(kind, noise), v)


class Recorder:
    """Answers random calls from a generator of its own, and keeps their names and shapes."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.names: list[str] = []
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        self.names.append(name)
        self.shapes.append(shape)
        return torch.empty(shape, dtype=torch.float64).exponential_(generator=self.generator).to(device)


def values_of(kind: LatentKind, z: Tensor) -> str:
    """ "one-hot", "relaxed" or "other", up to rounding."""
    tolerance = 1e-5 if z.dtype == torch.float32 else 1e-8
    if bool((z < -tolerance).any() or (z > 1 + tolerance).any()):
        return "other"
    sums = torch.ones(()) if kind is BINARY else z.sum(-1)
    if bool(((sums - 1).abs() > 10 * tolerance).any()):
        return "other"
    return "one-hot" if bool(((z - z.round()).abs() <= tolerance).all()) else "relaxed"
