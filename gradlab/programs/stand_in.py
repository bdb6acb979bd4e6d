"""A torch function mode in which other tensors stand for a program's own, in one precision and place.

What a loss refers to is not ours to copy: closures, globals, modules inside of modules. So its calls of torch are
intercepted. Where an argument is one of the program's parameters or buffers, a copy stands in; every other
floating-point tensor is converted to the precision of the measurement, constants that the loss makes too. So nothing is
written to the user's modules, and a float32 program is measured in float64. Random calls are refused by name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_RANDOM = {
    torch.rand: "torch.rand",
    torch.randn: "torch.randn",
    torch.randint: "torch.randint",
    torch.randperm: "torch.randperm",
    torch.rand_like: "torch.rand_like",
    torch.randn_like: "torch.randn_like",
    torch.randint_like: "torch.randint_like",
    torch.bernoulli: "torch.bernoulli",
    torch.multinomial: "torch.multinomial",
    torch.normal: "torch.normal",
    torch.poisson: "torch.poisson",
    torch.binomial: "torch.binomial",
    functional.gumbel_softmax: "gumbel_softmax",
    Tensor.bernoulli: "Tensor.bernoulli",
    Tensor.multinomial: "Tensor.multinomial",
    **{
        getattr(Tensor, name): f"Tensor.{name}"
        for name in ("uniform_", "normal_", "exponential_", "bernoulli_", "random_", "geometric_", "cauchy_")
    },
    Tensor.log_normal_: "Tensor.log_normal_",
}
_TO_FLOAT = (Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16)
_RECURRENT = ("gru", "lstm", "rnn_tanh", "rnn_relu")


_own: ContextVar[bool] = ContextVar("own", default=False)


@contextlib.contextmanager
def own_calls() -> Iterator[None]:
    """Within, torch is left alone: for what gradlab itself computes."""
    before = _own.set(True)
    try:
        yield
    finally:
        _own.reset(before)


class StandIn(TorchFunctionMode):
    """`stand_ins` by id of the tensor that each stands for; other floating-point tensors become `dtype`.

    `zero` is for vmap: a 0 for each of its runs, which is added to tensors that the loss makes. So all runs have their
    own, and operations in place work.
    """

    def __init__(
        self, stand_ins: Mapping[int, Tensor], dtype: torch.dtype, device: torch.device, zero: Tensor | None = None
    ):
        super().__init__()
        self.stand_ins, self.dtype, self.device, self.zero = stand_ins, dtype, device, zero
        self.used: set[int] = set()  # of `stand_ins`
        self._met = False  # whether a call had a tensor among its arguments

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _own.get():
            return func(*args, **(kwargs or {}))
        _refuse_random(func, args, kwargs or {})
        if func in _TO_FLOAT:
            return self._stands_for(args[0]).to(self.dtype)
        if _writes(func) and args and isinstance(args[0], Tensor):
            self._check_writable(func, args[0])
        self._met = False
        of_args = [self._mapped(arg) for arg in args]
        if getattr(func, "__name__", "").endswith("_cell"):  # which work in place on their state
            of_args[:2] = [self.one_each(arg) for arg in of_args[:2]]
        found = self._converted(func(*of_args, **{name: self._mapped(arg) for name, arg in (kwargs or {}).items()}))
        return found if self._met else self.one_each(found)

    def one_each(self, value: Any) -> Any:
        """A tensor, or a tuple of them, of which each run of vmap has its own."""
        if self.zero is None:
            return value
        if isinstance(value, tuple):
            return tuple(self.one_each(each) for each in value)
        if not isinstance(value, Tensor) or value.is_complex():
            return value
        return value | self.zero.bool() if value.dtype == torch.bool else value + self.zero.to(value.dtype)

    def _mapped(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            self._met = True
            return self._stands_for(value)
        if isinstance(value, torch.dtype):
            return self.dtype if value.is_floating_point else value
        if type(value) in (list, tuple):
            return type(value)(self._mapped(each) for each in value)
        if type(value) is dict:
            return {key: self._mapped(each) for key, each in value.items()}
        return value

    def _stands_for(self, tensor: Tensor) -> Tensor:
        found = self.stand_ins.get(id(tensor))
        if found is not None:
            self.used.add(id(tensor))
            return found
        return self._converted(tensor.detach() if isinstance(tensor, nn.Parameter) else tensor)

    def _converted(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.dtype != self.dtype and value.is_floating_point():
                return value.to(device=self.device, dtype=self.dtype)
            return value if value.device == self.device or not value.ndim else value.to(self.device)
        if type(value) in (list, tuple):
            return type(value)(self._converted(each) for each in value)
        return value

    def _check_writable(self, func: Any, tensor: Tensor) -> None:
        """A conversion would swallow what is written to a tensor that the loss captured."""
        if id(tensor) not in self.stand_ins and tensor.is_floating_point() and tensor.dtype != self.dtype:
            name = getattr(func, "__name__", str(func))
            raise ValueError(
                f"loss: expected one that writes to no tensor from outside, got {name} on a tensor of shape"
                f" {tuple(tensor.shape)}; make the tensor inside the loss"
            )


def _writes(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__") and name != "requires_grad_")


def _refuse_random(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """ValueError for random calls, and for batch norm that normalises with the examples at hand."""
    name = getattr(func, "__name__", "")

    def argument(keyword: str, place: int, otherwise: Any) -> Any:
        return kwargs.get(keyword, args[place] if len(args) > place else otherwise)

    found, cure = _RANDOM.get(func), "draw codes with sample(logits), and put noise into x"
    if found is None and _drops(name, argument):
        found, cure = f"{name} in training mode", "call .eval() on its modules"
    if found is not None:
        raise ValueError(f"loss: expected no random call but sample(), got {found}; {cure}")
    if name == "batch_norm" and argument("training", 5, False):
        raise ValueError(
            "loss: expected the loss of an example to depend on that example alone, got batch norm in training mode;"
            " call .eval() on its modules"
        )


def _drops(name: str, argument: Callable[[str, int, Any], Any]) -> bool:
    """Whether a call of torch drops something at random."""
    if name in _RECURRENT:  # with packed sequences, everything stands one place further
        at = 6 if isinstance(argument("", 3, None), list | tuple) else 5
        return bool(argument("", at, 0.0) and argument("", at + 1, False))
    if name == "scaled_dot_product_attention":
        return bool(argument("dropout_p", 4, 0.0))
    if name == "multi_head_attention_forward":
        return bool(argument("dropout_p", 10, 0.0) and argument("training", 13, True))
    if "dropout" in name:
        return bool(argument("p", 1, 0.5) and argument("training", 2, True))
    return name == "rrelu" and bool(argument("training", 3, False))


def copies(parameters: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Leaves that stand for parameters."""
    return [p.detach().to(device=device, dtype=dtype, copy=True).requires_grad_() for p in parameters]


def frozen(modules: Sequence[nn.Module], dtype: torch.dtype, device: torch.device) -> dict[int, Tensor]:
    """Copies by id of all parameters and buffers of modules, without gradient."""
    found: dict[int, Tensor] = {}
    for module in modules:
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            if id(tensor) not in found and not nn.parameter.is_lazy(tensor):
                found[id(tensor)] = tensor.detach().to(device=device, dtype=kind, copy=True)
    return found


@contextlib.contextmanager
def put_back(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Restores what modules keep on themselves, and the global random state."""
    modules = [module for module in modules if not isinstance(module, torch.jit.ScriptModule)]
    kept = [(vars(module), dict(vars(module))) for module in modules]
    tensors = [(part, dict(part)) for module in modules for part in (module._parameters, module._buffers)]
    devices = {p.device for module in modules for p in module.parameters(recurse=False) if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        try:
            yield
        finally:
            for now, before in (*kept, *tensors):
                if now.keys() != before.keys() or any(now[name] is not value for name, value in before.items()):
                    now.clear()
                    now.update(before)
