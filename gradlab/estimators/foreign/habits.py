"""What a layer does when it is called twice: noise that it seeds or keeps, a state or logits that it changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ... import errors
from ...latents import LatentKind
from .answers import Answers
from .calling import changed, suited, unchanged, values_of_state
from .running import Layer, Plan, as_given


class LayerWarning(UserWarning):
    """A layer does something that its figures do not show."""


class LayerNote(LayerWarning):
    """What is no fault of a layer, and yet not in its figures."""


def habits(layer: Layer, logits: Tensor, plan: Plan, kind: LatentKind) -> list[tuple[type[LayerWarning], str]]:
    """Sentences on two calls one after the other, at rows of logits (row, latent[, category])."""
    generator = torch.Generator().manual_seed(3)
    noise = kind.noise((2, *logits.shape), dtype=torch.float64, generator=generator)
    try:
        first, second = _answered_twice(layer, logits, plan, kind, noise)
        elsewhere, _ = plan.run(layer, kind, logits, noise.flip(1), 1.0, 1.0)
        if plan.layouts and not torch.equal(elsewhere, first[0]) and _repeats(layer, logits, plan):
            return [
                (
                    LayerWarning,
                    "two calls, one after the other, give the same codes: it seeds its random numbers in every call, or"
                    " keeps those of the first; figures are those of new numbers in every call",
                )
            ]
    except Exception as error:  # a layer that is called twice, in another dtype or form, may raise anything
        errors.pass_on_memory(error)
        return []
    if torch.equal(first, second):
        return []
    names = _what_changes(layer, logits, plan, kind, noise)
    what = f"changes {' and '.join(names)}" if names else "keeps a state"
    return [
        (
            LayerNote,
            f"it {what} when it is called, and its codes or gradient with it; figures are those of a first call",
        )
    ]


def changes_its_logits(layer: Layer, logits: Tensor, plan: Plan, kind: LatentKind, noise: Tensor) -> bool:
    """Whether it works in place on the logits that it is given."""
    with _called(layer, logits, plan) as call, Answers(plan.numbers(kind, noise)):
        leaf, given, _ = call()
    return not torch.equal(given.detach(), as_given(plan.form, leaf.detach()))


def _answered_twice(layer: Layer, logits: Tensor, plan: Plan, kind: LatentKind, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and gradients (2, ...) of two calls without a return to the first state, from the same numbers."""
    weights = torch.linspace(-1, 2, logits.numel(), dtype=torch.float64).reshape(logits.shape).to(logits)
    found = []
    with _called(layer, logits, plan) as call:
        for _ in range(2):
            with Answers(plan.numbers(kind, noise)):
                leaf, _, z = call()
                z = z.reshape(leaf.shape)
                (gradient,) = torch.autograd.grad((z * weights).sum(), leaf)
            found.append(torch.stack([z.detach().to(leaf.dtype), gradient]))
    return found[0], found[1]


def _what_changes(layer: Layer, logits: Tensor, plan: Plan, kind: LatentKind, noise: Tensor) -> list[str]:
    with _called(layer, logits, plan) as call, Answers(plan.numbers(kind, noise)):
        before = values_of_state(call.function)
        call()
        return changed(before, values_of_state(call.function))


def _repeats(layer: Layer, logits: Tensor, plan: Plan) -> bool:
    """Whether two calls with torch's own random numbers give the same codes."""
    with _called(layer, logits, plan) as call, _GeneratorsRestored():
        torch.default_generator.manual_seed(20_261_127)
        (*_, first), (*_, second) = call(), call()
    return torch.equal(first, second)


@dataclass(frozen=True)
class _Call:
    layer: Layer
    function: Callable[..., Any]
    logits: Tensor
    form: str

    def __call__(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, what the layer was given, and its codes."""
        leaf = self.logits.detach().clone().requires_grad_()
        given = as_given(self.form, leaf).clone()
        return leaf, given, self.layer.codes(self.function, given, 1.0, 1.0)


@contextlib.contextmanager
def _called(layer: Layer, logits: Tensor, plan: Plan) -> Iterator[_Call]:
    """To call the layer several times; afterwards its state is what it was."""
    function = suited(layer.arguments.function, logits)
    with unchanged(function), torch.enable_grad():
        yield _Call(layer, function, logits, plan.form)


class _GeneratorsRestored(TorchDispatchMode):
    """Afterwards generators that random calls were given are in the state in which they came."""

    def __enter__(self):
        self.found: dict[int, tuple[torch.Generator, Tensor]] = {}
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        generator = (kwargs or {}).get("generator")
        if generator is not None:
            self.found.setdefault(id(generator), (generator, generator.get_state()))
        return func(*args, **(kwargs or {}))

    def __exit__(self, *of_error: Any) -> None:
        super().__exit__(*of_error)
        for generator, state in self.found.values():
            generator.set_state(state)
