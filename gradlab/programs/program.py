"""Program: a loss that samples codes, and the parameters whose gradients are measured."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..estimators import Estimator, parse

ALL = "all"  # in results, the name of all parameters together
Loss = Callable[[Any, Callable[..., Tensor]], Tensor]


class Program:
    """A model as a program: a loss per example, in which `sample` stands for drawing a code.

    For latents that depend on latents sampled before them, decoders that see x, terms in the logits (the KL term of a
    learned prior, a commitment loss, an entropy), several losses, and observations that are no single tensor.

    gradlab never writes to the modules: it measures with copies of the parameters, in float64 unless told otherwise.

    Parameters
    ----------
    loss
        `loss(x, sample)` -> loss per example `(example,)`. x is a tensor, or a dict, tuple or list of tensors (nested
        too), with the examples first. `sample(logits)` takes logits `(example, latent, category)` and returns a code of
        that shape; `sample(logits, binary=True)` takes `(example, latent)`, one logit per unit, and
        `sample(logits, top_k=2)` returns 2-hot codes, of the two largest of l/tf + noise. Latents may have a
        shape, `(example, height, width, category)`. Sites may differ in their shapes, and their number may depend on x
        and on the codes. An example's loss must depend on that example alone, and on no random call but `sample`.
    wrt
        Parameters whose gradients are measured, by name: a module, a dict of modules or parameters, a list of them, or
        pairs as `module.named_parameters()` gives them. Parameters that require no gradient are left out.

    Raises
    ------
    ValueError
        A loss that cannot be called; parameters that have no name, or none that requires a gradient.

    Examples
    --------
    >>> from torch import nn
    >>> prior, decoder = nn.Linear(4, 3), nn.Linear(3, 4)
    >>> def loss(x, sample):
    ...     first = sample(prior(x)[:, None])
    ...     second = sample(prior(decoder(first)))
    ...     return (decoder(second)[:, 0] - x).square().sum(-1)
    >>> program = gradlab.Program(loss, wrt={"prior": prior, "decoder": decoder})
    >>> gradient = gradlab.exact_gradient(program, torch.randn(5, 4))
    >>> gradient["prior.weight"].shape
    torch.Size([3, 4])
    """

    def __init__(self, loss: Loss, wrt: Any):
        if not callable(loss):
            raise ValueError(f"loss: expected a function loss(x, sample), got a {type(loss).__name__}")
        self.loss = loss
        self.parameters = _parameters(wrt)
        self._wrt = wrt

    def __repr__(self) -> str:
        name = getattr(self.loss, "__name__", type(self.loss).__name__)
        return f"Program({name}, {len(self.parameters)} parameter tensors)"

    def surrogate_loss(self, estimator: Estimator | str, x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        """Losses whose backward pass is the estimate of an estimator (one draw per example), for your training loop.

        The value is the loss; of an estimator of several paths, its mean. The gradient with respect to the parameters
        is what `gradlab.bias` measures. The loss runs on your own modules, in their precision and mode.

        Parameters
        ----------
        estimator : a name, "reinmax", with parameters, "rloo:n=4,tf=0.5", or an Estimator; one that a Program takes
        x : as for the loss
        generator : source of the noise, on the logits' device; torch's default generator if None

        Returns
        -------
        Tensor (example,). Call backward on its mean.

        Raises
        ------
        ValueError
            An estimator that is unknown or that a Program does not take; a loss that is not one number per example.

        Examples
        --------
        >>> from torch import nn
        >>> prior, decoder = nn.Linear(4, 3), nn.Linear(3, 4)
        >>> def loss(x, sample):
        ...     return (decoder(sample(prior(x)[:, None])[:, 0]) - x).square().sum(-1)
        >>> program = gradlab.Program(loss, wrt=[prior, decoder])
        >>> program.surrogate_loss("reinmax:tf=1,tb=2", torch.randn(5, 4)).mean().backward()
        >>> prior.weight.grad.shape
        torch.Size([3, 4])
        """
        from .surrogate import surrogate_loss

        chosen = parse(estimator) if isinstance(estimator, str) else estimator
        if not isinstance(chosen, Estimator):
            raise ValueError(f"estimator: expected a name or an Estimator, got {estimator!r}")
        return surrogate_loss(self.loss, x, chosen, generator)

    @property
    def name(self) -> str:
        """What files say of it: the name of the loss."""
        return getattr(self.loss, "__qualname__", type(self.loss).__name__).replace("<locals>.", "")

    def modules(self) -> list[nn.Module]:
        """All modules that can be found: those given, and those that the loss refers to."""
        found: dict[int, nn.Module] = {}
        for module in [*_modules_in(self._wrt), *_referred_to(self.loss)]:
            found |= {id(each): each for each in module.modules()}
        return list(found.values())


def _parameters(wrt: Any) -> dict[str, Tensor]:
    """Parameters that require gradients, by name, each once."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, parameter in _named(wrt):
        if nn.parameter.is_lazy(parameter):
            raise ValueError(
                f"wrt: expected initialised parameters, got {name}, whose size is not known; run the model"
            )
        if not parameter.requires_grad or id(parameter) in seen:
            continue
        if name in found or name == ALL:
            other = "which means all of them" if name == ALL else "twice"
            raise ValueError(f"wrt: expected a name of its own for each parameter, got {name!r}, {other}")
        seen.add(id(parameter))
        found[name] = parameter
    if not found:
        raise ValueError("wrt: expected parameters that require gradients, got none")
    return found


def _named(wrt: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    def joined(name: str) -> str:
        return f"{prefix}.{name}" if prefix else name

    if isinstance(wrt, nn.Module):
        yield from ((joined(name), parameter) for name, parameter in wrt.named_parameters())
    elif isinstance(wrt, Tensor):
        yield prefix or "parameter", wrt
    elif isinstance(wrt, Mapping):
        for name, each in wrt.items():
            yield from _named(each, joined(str(name)))
    elif isinstance(wrt, Iterable) and not isinstance(wrt, str | bytes):
        for i, each in enumerate(wrt):
            pair = isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], str)
            yield from _named(each[1], joined(each[0])) if pair else _named(each, joined(str(i)))
    else:
        raise ValueError(
            "wrt: expected a module, parameters by name, or a dict or list of these, got a"
            f" {type(wrt).__name__}{f' at {prefix}' if prefix else ''}"
        )


def _modules_in(value: Any) -> Iterator[nn.Module]:
    """Modules in dicts, lists and tuples."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _modules_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _modules_in(each)


def _referred_to(function: Any, depth: int = 3) -> Iterator[nn.Module]:
    """Modules that a callable refers to: in its closure, as globals, defaults, attributes of its object."""
    if isinstance(function, nn.Module):
        yield function
    elif isinstance(function, functools.partial):
        yield from _modules_in(function.args)
        yield from _modules_in(function.keywords)
        yield from _referred_to(function.func, depth)
    elif isinstance(function, types.MethodType):
        yield from _attributes(function.__self__)
        yield from _referred_to(function.__func__, depth)
    elif isinstance(function, types.FunctionType):
        try:
            closure = inspect.getclosurevars(function)
        except ValueError:  # a variable that has no value yet
            return
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        for value in [*closure.nonlocals.values(), *closure.globals.values(), *defaults]:
            yield from _modules_in(value)
            if depth and isinstance(value, types.FunctionType | types.MethodType | functools.partial):
                yield from _referred_to(value, depth - 1)
            elif not isinstance(value, type | types.ModuleType):
                yield from _attributes(value)
    else:
        yield from _attributes(function)
        if depth:
            yield from _referred_to(type(function).__call__, depth - 1)


def _attributes(value: Any) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    for each in vars(value).values() if hasattr(value, "__dict__") else ():
        yield from _modules_in(each)
