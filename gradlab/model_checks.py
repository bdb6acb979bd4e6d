"""Detects models whose rows are random, depend on each other or depend on earlier calls.

Encoder, decoder and a user's likelihood must be functions of single rows. Each is run twice on the same rows, on some
rows alone, and once for its derivative: the output of a row must have derivative 0 with respect to all other rows.
Buffers must not change. A stack of torch layers that are known to be row-wise is not tested.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import decoded, errors, latents, likelihoods, owned
from .latents import derived_seed
from .model import LatentModel

MOST_ROWS = 256  # rows of a probe
NUMBERS = 2**25  # approximate number of activations of a probe
REPEATED = 2**11  # rows to repeat if a function draws random numbers but returned equal values twice
_ROUNDING = 32  # eps of the largest output; repeated results of a CPU differ by less

_BY_ROW = {nn.Sequential, nn.Linear, nn.Identity, nn.Flatten, nn.Unflatten}
_BY_ROW |= {nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Tanh, nn.Sigmoid}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

Rows = tuple[Tensor, ...]
Function = Callable[..., Tensor]


def check_modes(model: nn.Module) -> None:
    """Raises ValueError if a layer is random or mixes examples because it is in training mode."""
    modules = [("model", name, module) for name, module in model.named_modules()]
    for part in owned.parts(getattr(model, "likelihood", None)):
        if isinstance(part, nn.Module):  # perhaps no part of the model, so that model.eval() does not reach it
            modules += [("likelihood", name or "its module", module) for name, module in part.named_modules()]
    for where, name, module in modules:
        if module.training and _only_for_training(module):
            eval_of = "model" if where == "model" else "its module"
            raise ValueError(
                f"{where}: expected evaluation mode, got {name} ({type(module).__name__}) in training mode, so the loss"
                f" is random or mixes examples; call {eval_of}.eval() before measuring"
            )


def by_row(module: nn.Module) -> bool:
    """True if a module consists of torch layers that compute each row from itself alone, without hooks.

    All their tensors are torch's own parameters and buffers, so that a copy of these is a copy of the layers.
    Convolutions are not among them: for an input with one dimension less, they treat rows as channels.
    """
    return all(
        type(layer) in _BY_ROW and unhooked(layer) and _leaves_rows(layer) and _registered(layer)
        for layer in module.modules()
    )


def computes_by_row(model: LatentModel) -> bool:
    """Whether no probe is needed to know that a row of the model is computed from that row alone."""
    plain = type(model) is LatentModel and not model.conditional
    canonical = isinstance(model.likelihood, likelihoods.Canonical)
    return plain and canonical and by_row(model.encoder) and by_row(model.decoder)


def _leaves_rows(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Flatten):
        return layer.start_dim >= 1
    return not isinstance(layer, nn.Unflatten) or (isinstance(layer.dim, int) and layer.dim >= 1)


def _registered(layer: nn.Module) -> bool:
    """Whether a layer's tensors are plain parameters and buffers: none an attribute, none of a class with own rules."""
    others = [value for name, value in vars(layer).items() if name not in ("_parameters", "_buffers")]
    held = (tensor for tensor in (*layer._parameters.values(), *layer._buffers.values()) if tensor is not None)
    return all(type(tensor) in (nn.Parameter, Tensor) for tensor in held) and not _tensors(others)


def unhooked(module: nn.Module) -> bool:
    """True if a call runs only the `forward` of the class."""
    if "forward" in vars(module) or nn.modules.module._has_any_global_hook():
        return False
    return not any(getattr(module, hooks) for hooks in _HOOKS)


def _only_for_training(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return module.dropout > 0
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Raises ValueError if the block changes floating-point buffers or parameters: a state kept between calls.

    Restores the global random state.
    """
    buffers = {name: (b, b.clone()) for name, b in model.named_buffers() if b.is_floating_point()}
    versions = {name: p._version for name, p in model.named_parameters() if _versioned(p)}
    devices = {t.device for t in (*model.parameters(), *model.buffers()) if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        yield
    now = dict(model.named_buffers())
    changed = [name for name, (_, was) in buffers.items() if not _alike(now.get(name), was)]
    changed += [n for n, p in model.named_parameters() if n in versions and p._version != versions[n]]
    if changed:
        raise ValueError(
            f"model: expected no change by a call, got another {changed[0]} (spectral norm or running statistics in"
            " training mode, a state kept between calls?), so the loss depends on earlier calls; call model.eval()"
        )


def _versioned(parameter: Tensor) -> bool:
    return not (nn.parameter.is_lazy(parameter) or parameter.is_inference())


def _alike(now: Tensor | None, was: Tensor) -> bool:
    return now is not None and now.shape == was.shape and bool(torch.equal(now.nan_to_num(), was.nan_to_num()))


def check(model: LatentModel, x: Tensor, seen: Tensor, logits: Tensor) -> None:
    """Raises ValueError with the part and the layer that breaks a rule: encoder, decoder or likelihood.

    `seen` is the input of the encoder, `logits` its output for all examples at once.
    """
    generator = torch.Generator(x.device).manual_seed(derived_seed(0, "probe"))

    def encode(some: Tensor) -> Tensor:
        return of_possible(model.logits(some))

    def of_possible(found: Tensor) -> Tensor:
        found = latents.bounded(model.kind, found)
        return found.masked_fill(latents.masked(model.kind, found), 0.0)

    count = rows_of(model.encoder, lambda: encode(seen[:2].clone()), len(x[:2]))
    _probe("encoder", encode, (seen[:count],), generator, model.encoder)
    at = _some(len(x))
    whole = of_possible(logits[at])
    if _off(whole, _alone(encode, (seen[at],)), whole) > 1:
        raise ValueError(_mixes("encoder", ""))

    def codes(n: int) -> Tensor:
        share = torch.rand(n, model.latents, generator=generator, device=x.device)
        counts = torch.tensor(model.code_counts, device=x.device)
        indices = (share * counts).long().minimum(counts - 1)
        return model.codes_at(indices, logits.dtype)

    def observed(n: int) -> Tensor:
        return x[torch.arange(n, device=x.device) % len(x)]

    two, of_two = codes(2), observed(2)
    found: list[Any] = []
    count = rows_of(model.decoder, lambda: found.append(model.decode(two.clone(), of_two)), 2)
    if model.conditional and not torch.equal(of_two, observed(2)):
        raise ValueError("decoder: expected one that leaves x as it is, got one that writes to it; write to a copy")
    z = codes(max(3, count))
    of_z = observed(len(z))

    def decode(z: Tensor, x: Tensor | None = None) -> Tensor:
        out = model.decode(z, x)
        return out if isinstance(out, Tensor) else decoded.rows(out, len(z))

    apart = not decoded.opaque(found[0])  # whether the decoder can be looked at without the likelihood
    if apart:
        _probe("decoder", decode, (z, of_z) if model.conditional else (z,), generator, model.decoder)
    if not isinstance(model.likelihood, likelihoods.Canonical):
        module = model.likelihood if isinstance(model.likelihood, nn.Module) else None
        if isinstance(found[0], Tensor):
            with torch.no_grad():
                parameters = model.decode(z.clone(), of_z)
            _probe("likelihood", model.losses_of, (parameters, of_z), generator, module)
        else:
            _probe("likelihood" if apart else "decoder", model.losses, (z, of_z), generator, module)


@torch.no_grad()
def rows_of(module: nn.Module, run: Callable[[], Any], rows: int) -> int:
    """The number of rows for a probe, from the activations of the module for `rows` rows."""
    return min(MOST_ROWS, max(4, NUMBERS * rows // max(1, activations(module, run))))


def _hookable(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Its modules by name, without those that torch.jit compiled, which take no hooks."""
    return [(name, m) for name, m in module.named_modules() if not isinstance(m, torch.jit.ScriptModule)]


def activations(module: nn.Module, run: Callable[[], Any]) -> int:
    """The number of activations of the module's layers in `run`."""
    total = 0

    def count(layer: Any, given: Any, output: Any) -> None:
        nonlocal total
        total += output.numel() if isinstance(output, Tensor) else 0

    hooks = [layer.register_forward_hook(count) for _, layer in _hookable(module)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return total


def _probe(name: str, function: Function, rows: Rows, generator: torch.Generator, module: nn.Module | None) -> None:
    """Raises ValueError unless each row has the same output every time, alone and together with other rows."""
    before = _random_state(rows[0].device)
    together = _run(function, rows)
    again = _run(function, rows)
    drew = any(not torch.equal(a, b) for a, b in zip(before, _random_state(rows[0].device), strict=True))
    if drew:  # then any difference is noise; repeat, because it may be rare
        repeats = itertools.chain([again], (_run(function, rows) for _ in range(REPEATED // len(rows[0]) + 1)))
        random = any(not torch.equal(together, other) for other in repeats)
    else:
        exact = _ROUNDING * torch.finfo(together.dtype).eps ** 0.5 if together.device.type == "cpu" else 1.0
        random = _off(together, again, together) > exact
    if random:
        where = _layer(module, function, rows, rows, slice(None), 0.0)
        raise ValueError(
            f"{name}: expected the same values for the same input, got others{where} (dropout or noise, a state kept"
            " between calls?); call model.eval() if it is in training mode"
        )
    at = _some(len(rows[0]))
    leaks = _leaks(function, rows, generator)
    if leaks or _off(together[at], _alone(function, [r[at] for r in rows]), together) > 1:
        last = [row[-2:] for row in rows]  # two rows, because batch norm refuses a single one
        raise ValueError(_mixes(name, _layer(module, function, rows, last, slice(-2, None), 1.0)))


def _mixes(name: str, where: str) -> str:
    return (
        f"{name}: expected each row to be computed from itself alone, got rows that depend on others in the"
        f" batch{where} (batch norm without running statistics, attention or a mean over the batch?)"
    )


def _some(count: int) -> list[int]:
    return sorted({0, count // 2, count - 1})


@torch.no_grad()
def _run(function: Function, rows: Sequence[Tensor]) -> Tensor:
    return function(*(row.clone() for row in rows)).detach()  # copies, because layers may work in place


def _alone(function: Function, rows: Sequence[Tensor]) -> Tensor:
    each = zip(*(row.split(1) for row in rows), strict=True)
    return torch.cat([_run(function, row) for row in each])


def _off(found: Tensor, wanted: Tensor, scale: Tensor) -> float:
    """Largest difference divided by sqrt(eps) of the largest number. Equal infinities and NaN count as 0."""
    most = float(scale.abs().nan_to_num(posinf=0.0).max())
    difference = float((found - wanted).abs().nan_to_num(posinf=0.0).max())
    return difference / (torch.finfo(scale.dtype).eps ** 0.5 * most) if most else difference


def _random_state(device: torch.device) -> list[Tensor]:
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.random.get_rng_state(), *on_device]


def _leaks(function: Function, rows: Rows, generator: torch.Generator) -> bool:
    """True if the output of random half of the rows has a derivative with respect to the other half, or vice versa."""
    leaves = [row.detach().clone().requires_grad_(row.is_floating_point()) for row in rows]
    differentiable = [leaf for leaf in leaves if leaf.requires_grad]
    with torch.enable_grad():
        out = function(*(leaf.clone() for leaf in leaves))
        if not (out.requires_grad and differentiable):
            return False
        slope = torch.randn(out.shape, generator=generator, device=out.device, dtype=torch.float32).to(out.dtype)
        half = torch.rand(len(out), generator=generator, device=out.device) < 0.5
        half[0], half[-1] = True, len(out) == 1
        for own in (half, ~half):
            weight = slope * own.reshape(-1, *[1] * (out.ndim - 1))
            try:
                found = torch.autograd.grad((out * weight).sum(), differentiable, retain_graph=True, allow_unused=True)
            except RuntimeError as error:  # not differentiable: reported by the code that needs the derivative
                errors.pass_on_memory(error)
                return False
            if any(bool((g[~own].nan_to_num(posinf=0.0, neginf=0.0) != 0).any()) for g in found if g is not None):
                return True
    return False


def _layer(
    module: nn.Module | None,
    function: Function,
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    rows: slice,
    within: float,
) -> str:
    """The first innermost layer with different outputs for equal inputs; `rows` of `first` equal `second`."""
    if module is None:
        return ""
    once, twice = (_recorded(module, function, rows) for rows in (first, second))
    for (name, layer, given, output), (other, _, given2, output2) in zip(once, twice, strict=False):
        if name != other:
            return ""
        if _equal(given, given2, rows, within) and not _equal(output, output2, rows, within):
            return f", in {name + ', a ' if name else 'a '}{type(layer).__name__}"
    return ""


def _recorded(
    module: nn.Module, function: Function, rows: Sequence[Tensor]
) -> list[tuple[str, nn.Module, list[Tensor], list[Tensor]]]:
    """Name, layer, inputs and outputs of each call of a layer, innermost first."""
    calls: list[tuple[str, nn.Module, list[Tensor], list[Tensor]]] = []
    given: list[list[Tensor]] = []  # of the calls under way

    def enters(layer: nn.Module, inputs: Any) -> None:
        given.append(_tensors(inputs))

    def leaves(name: str) -> Callable[..., None]:
        return lambda layer, inputs, output: calls.append((name, layer, given.pop(), _tensors(output)))

    hooks = [layer.register_forward_pre_hook(enters) for _, layer in _hookable(module)]
    hooks += [layer.register_forward_hook(leaves(name)) for name, layer in _hookable(module)]
    try:
        _run(function, rows)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _tensors(value: Any) -> list[Tensor]:
    """Copies of the tensors in a value, because layers may work in place."""
    if isinstance(value, Tensor):
        return [value.detach().clone()]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _equal(first: list[Tensor], second: list[Tensor], rows: slice, within: float) -> bool:
    """True if `rows` of the first tensors equal the second ones. Tensors with other shapes are ignored."""
    pairs = [(one[rows], other) for one, other in zip(first, second, strict=False) if one.ndim and one.numel()]
    return all(
        _off(one, other, one) <= within for one, other in pairs if one.shape == other.shape and one.is_floating_point()
    )
