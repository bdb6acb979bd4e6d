"""Random calls of torch, answered from Exp(1) numbers that the caller provides.

Every call becomes a function of independent numbers e ~ Exp(1), one for each number that the call returns:

    exponential   e / rate                   multinomial   argmax(log p - log e), without replacement the first of them
    uniform       u = exp(-e)                bernoulli     1[u < p]
    normal        Phi^-1(u)                  cauchy, log_normal, geometric, randint: their quantile at u

So e = exp(-g) makes `-log(-log(u))`, `-log(exponential)` and multinomial use the Gumbel noise g.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_NOT_RANDOM = ("_fused_sdp_choice", "_nested_tensor_softmax_with_shape", "_cudnn_init_dropout_state")
_SWITCHES = ("dropout_p", "dropout", "p", "train", "training")  # arguments with which a call is not random, where 0


class Draw(Protocol):
    """The source of the numbers of one run."""

    def __call__(self, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Exp(1) numbers, float64, for a random call."""

    def restart(self) -> None:
        """Begin with the first call again."""


class Refused(ValueError):
    """Why a layer cannot be used, without its name."""


class Answers(TorchDispatchMode):
    """While active, random calls of torch are answered from `draw`; torch's own generators are not read."""

    def __init__(self, draw: Draw):
        super().__init__()
        self.draw = draw

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        given = _bound(func, args, kwargs)
        name = func._schema.name.removeprefix("aten::")
        answer = _ANSWERS.get(name.removesuffix("_"))
        if answer is not None and "out" not in given:
            return answer(self.draw, name, given)
        if name in _NOT_RANDOM or any(given.get(switch) in (0, False) for switch in _SWITCHES if switch in given):
            return func(*args, **kwargs)
        raise Refused(
            f"expected random calls that gradlab can answer from its noise ({', '.join(KNOWN)}), got torch's {name}"
        )


def _bound(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, defaults included."""
    schema = func._schema.arguments
    given = {a.name: a.default_value for a in schema if a.has_default_value()}
    return given | {a.name: value for a, value in zip(schema, args, strict=False)} | kwargs


def _uniform(e: Tensor, dtype: torch.dtype) -> Tensor:
    """In the open interval (0, 1), so that its logarithms are finite, as float64 or rounded to a narrower dtype."""
    limits = torch.finfo(dtype)
    return torch.exp(-e).clamp_(limits.tiny, 1 - limits.eps / 2).to(dtype)


def _normal(e: Tensor) -> Tensor:
    """Phi^-1(exp(-e)), from the smaller of the two tails."""
    small = e > math.log(2)
    tail = torch.where(small, torch.exp(-e), -torch.expm1(-e)).clamp_(min=torch.finfo(e.dtype).tiny)
    quantile = torch.special.ndtri(tail)
    return torch.where(small, quantile, -quantile)


def _floating(dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and dtype.is_floating_point else torch.get_default_dtype()


def _new(values: Callable[[Tensor, torch.dtype | None, dict[str, Any]], Tensor]) -> Callable[..., Tensor]:
    """The answer to a call that gives a new tensor: `size`, or like `self`."""

    def answer(draw: Draw, name: str, given: dict[str, Any]) -> Tensor:
        like = given.get("self")
        shape = tuple(given["size"]) if like is None else tuple(like.shape)
        dtype = given.get("dtype") or (like.dtype if like is not None else None)
        device = given.get("device") or (like.device if like is not None else torch.get_default_device())
        return values(draw(name, shape, torch.device(device)), dtype, given)

    return answer


def _filled(values: Callable[[Tensor, torch.dtype, dict[str, Any]], Tensor]) -> Callable[..., Tensor]:
    """The answer to a call that fills `self`, or gives a new tensor like it."""

    def answer(draw: Draw, name: str, given: dict[str, Any]) -> Tensor:
        into = given["self"]
        found = values(draw(name, tuple(into.shape), into.device), into.dtype, given).to(into.dtype)
        return into.copy_(found) if name.endswith("_") else found

    return answer


def _between(e: Tensor, dtype: torch.dtype, given: dict[str, Any]) -> Tensor:
    low, high = given.get("from", 0.0), given.get("to", 1.0)
    return _uniform(e, dtype) * (high - low) + low


def _whole(e: Tensor, dtype: torch.dtype | None, given: dict[str, Any]) -> Tensor:
    """Whole numbers low .. high-1."""
    low, high = given.get("low", given.get("from", 0)) or 0, given.get("high", given.get("to"))
    if high is None:
        raise Refused("expected random calls that gradlab can answer from its noise, got random_ without an end")
    return (_uniform(e, torch.float64) * (high - low) + low).floor().to(dtype or torch.long)


def _randint(draw: Draw, name: str, given: dict[str, Any]) -> Tensor:
    if not isinstance(given.get("dtype"), torch.dtype):  # of the schema, a number
        given["dtype"] = torch.long
    return _new(_whole)(draw, name, given)


def _of_normal(draw: Draw, name: str, given: dict[str, Any]) -> Tensor:
    """normal(mean, std) of tensors or numbers, and normal_(self, mean, std)."""
    if "self" in given:
        return _filled(lambda e, _, g: _normal(e) * g["std"] + g["mean"])(draw, name, given)
    mean, std = given["mean"], given["std"]
    tensors = [one for one in (mean, std) if isinstance(one, Tensor)]
    if not tensors:
        return _new(lambda e, dtype, g: (_normal(e) * std + mean).to(_floating(dtype)))(draw, name, given)
    shape = torch.broadcast_shapes(*(one.shape for one in tensors))
    return (_normal(draw(name, tuple(shape), tensors[0].device)) * std + mean).to(tensors[0].dtype)


def _bernoulli(draw: Draw, name: str, given: dict[str, Any]) -> Tensor:
    into = given["self"]
    p = given["p"] if given.get("p") is not None else into
    u = torch.exp(-draw(name, tuple(into.shape), into.device))
    found = (u < p).to(into.dtype)
    return into.copy_(found) if name.endswith("_") else found


def _multinomial(draw: Draw, name: str, given: dict[str, Any]) -> Tensor:
    """Gumbel's trick: the largest log p + g is a sample; the n largest are n samples without replacement."""
    p, n, replaced = given["self"], given["num_samples"], given.get("replacement", False)
    log_p = p.double().log()
    if n == 1 or not replaced:
        g = -draw(name, tuple(p.shape), p.device).log()
        return (log_p + g).topk(n, -1).indices
    g = -draw(name, (*p.shape[:-1], n, p.shape[-1]), p.device).log()
    return (log_p.unsqueeze(-2) + g).argmax(-1)


def _native_dropout(draw: Draw, name: str, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    x, p, train = given["input"], given["p"], given.get("train")
    if train is False or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    kept = torch.exp(-draw(name, tuple(x.shape), x.device)) < 1 - p
    return x * kept / (1 - p), kept


def _geometric(e: Tensor, dtype: torch.dtype, given: dict[str, Any]) -> Tensor:
    return (e / -math.log1p(-given["p"])).ceil().clamp_(min=1)  # log u = -e


_ANSWERS: dict[str, Callable[..., Any]] = {
    "rand": _new(lambda e, dtype, _: _uniform(e, _floating(dtype))),
    "rand_like": _new(lambda e, dtype, _: _uniform(e, _floating(dtype))),
    "randn": _new(lambda e, dtype, _: _normal(e).to(_floating(dtype))),
    "randn_like": _new(lambda e, dtype, _: _normal(e).to(_floating(dtype))),
    "randint": _randint,
    "randint_like": _new(_whole),
    "random": _filled(_whole),
    "uniform": _filled(_between),
    "exponential": _filled(lambda e, dtype, g: (e / g["lambd"]).clamp_(min=torch.finfo(dtype).tiny)),
    "normal": _of_normal,
    "cauchy": _filled(lambda e, _, g: g["median"] + g["sigma"] * torch.tan(math.pi * (torch.exp(-e) - 0.5))),
    "log_normal": _filled(lambda e, _, g: torch.exp(_normal(e) * g["std"] + g["mean"])),
    "geometric": _filled(_geometric),
    "bernoulli": _bernoulli,
    "multinomial": _multinomial,
    "native_dropout": _native_dropout,
}
KNOWN = ("rand", "randn", "randint", "uniform_", "exponential_", "normal", "bernoulli", "multinomial", "dropout")
