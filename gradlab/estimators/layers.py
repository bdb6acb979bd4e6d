"""Estimators in your own network: layers that sample codes, and a surrogate loss for every estimator.

A layer is enough if the estimate is linear in the derivative of the loss. `surrogate_loss` works for all estimators,
also for those that need the loss itself or several evaluations of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import errors
from ..k_hot import KHot
from ..latents import BINARY, CATEGORICAL, LatentKind, bounded
from . import registry
from .base import Estimator
from .evaluation import evaluate, points_of, weighted
from .running_mean import RunningMean


def decoupled_st_gumbel_softmax(
    logits: Tensor, tf: float | Tensor = 1.0, tb: float | Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Sample one-hot codes with Decoupled ST-GS gradients; a drop-in for `gumbel_softmax(logits, hard=True)`.

    Forward z = onehot(argmax(l/tf + g)), backward that of softmax(l/tb + g) with the same Gumbel noise g
    (Decoupled ST-GS, eq. 12-16). The values are exactly 0 and 1.

    Parameters
    ----------
    logits : floating-point tensor (..., category)
    tf, tb : forward and backward temperature, finite and positive; tb defaults to tf. Numbers, or tensors that
        broadcast with the logits and have a last dim of 1. A learned tb gets the gradient of q; tf gets none
    generator : source of the noise, on the logits' device; torch's default generator if None

    Returns
    -------
    Tensor (..., category), one-hot, differentiable with respect to logits and tb.

    Raises
    ------
    ValueError
        Temperatures that are not finite and positive; a learned tf with a separate tb; logits that are no
        floating-point tensor.

    Examples
    --------
    >>> logits = torch.randn(5, 8, requires_grad=True)
    >>> z = gradlab.decoupled_st_gumbel_softmax(logits, tf=1.6, tb=1.3)
    >>> z.shape, z.sum().item()
    (torch.Size([5, 8]), 5.0)
    """
    if isinstance(tf, Tensor) and tf.requires_grad and tb is not None and tb is not tf and torch.is_grad_enabled():
        raise ValueError(
            "tf: expected a temperature that takes no gradient, got requires_grad=True; the argmax of the forward pass"
            " has none (give tf.detach(), or leave out tb to learn both as one)"
        )
    wide, tf, tb, g = _layer(logits, tf, tb, generator)
    with torch.no_grad():
        z = CATEGORICAL.hard(wide / tf + g)
    q = _softmax(wide / tb + g)
    return (z + (q - q.detach())).to(logits.dtype)  # the bracket is exactly 0


def gumbel_softmax(
    logits: Tensor, tf: float | Tensor = 1.0, tb: float | Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Relaxed codes y = softmax((l/tf + g)/tb) with Gumbel noise g, the `gumbel-softmax` estimator as a layer.

    As tb -> 0, y becomes a one-hot sample of softmax(l/tf). At tf = 1 this is torch's `gumbel_softmax(logits, tau=tb)`.

    Parameters
    ----------
    logits : floating-point tensor (..., category)
    tf, tb : temperature of the law and of the relaxation, finite and positive; tb defaults to tf. Numbers, or tensors
        that broadcast with the logits and have a last dim of 1, which may be learned
    generator : source of the noise, on the logits' device; torch's default generator if None

    Returns
    -------
    Tensor (..., category), above 0 with sum 1, differentiable with respect to logits, tf and tb.

    Raises
    ------
    ValueError
        Temperatures that are not finite and positive; logits that are no floating-point tensor.

    Examples
    --------
    >>> y = gradlab.estimators.gumbel_softmax(torch.zeros(5, 8), tf=1.0, tb=0.5)
    >>> torch.allclose(y.sum(-1), torch.ones(5))
    True
    """
    wide, tf, tb, g = _layer(logits, tf, tb, generator)
    return _softmax((wide / tf + g) / tb).to(logits.dtype)


def _softmax(a: Tensor) -> Tensor:
    """softmax(a), differentiated as if its largest entry were 1 minus the others: by v - v_at instead of v.

    J(q) v is the same, but q (v - q.v), the backward pass of torch's softmax, is nothing but rounding at the largest
    entry where q is almost one-hot.
    """
    q = CATEGORICAL.soft(a)
    at = q.argmax(-1, keepdim=True)
    others = q.scatter(-1, at, 0.0)
    steady = others.scatter(-1, at, 1 - others.sum(-1, keepdim=True))
    return q.detach() + (steady - steady.detach())  # the value is that of softmax


def _layer(
    logits: Tensor, tf: float | Tensor, tb: float | Tensor | None, generator: torch.Generator | None
) -> tuple[Tensor, float | Tensor, float | Tensor, Tensor]:
    """Logits in single precision at least, both temperatures, checked, and Gumbel noise."""
    _check_categories(logits)
    wide = _wide(logits)
    tf = _temperature("tf", tf, wide)
    tb = tf if tb is None else _temperature("tb", tb, wide)
    # like the logits, because vmap tells its rows apart by them
    e = torch.empty_like(wide.detach()[None], memory_format=torch.contiguous_format)
    return wide, tf, tb, CATEGORICAL.noise_from(e.exponential_(generator=generator))


def _check_categories(logits: Tensor) -> None:
    expected = "logits: expected a floating-point tensor (..., category)"
    if not isinstance(logits, Tensor):
        raise ValueError(f"{expected}, got {type(logits).__name__}")
    if logits.is_nested or logits.layout is not torch.strided:
        raise ValueError(f"{expected}, got one that is {'nested' if logits.is_nested else 'sparse'}; make it dense")
    if not (logits.is_floating_point() and logits.dtype.itemsize > 1 and logits.ndim and logits.shape[-1]):
        raise ValueError(f"{expected}, got {logits.dtype} of shape {tuple(logits.shape)}")


def _wide(logits: Tensor) -> Tensor:
    """In bfloat16 equal sums of logits and noise are frequent, and would make codes up to 5 % too probable."""
    return logits.float() if logits.dtype.itemsize < 4 else logits


def _temperature(argument: str, value: float | Tensor, logits: Tensor) -> float | Tensor:
    """A temperature, checked; as a tensor it keeps its gradient."""
    learned = isinstance(value, Tensor) and value.requires_grad
    if isinstance(value, Tensor) and value.ndim and not value.is_floating_point() and value.numel() > 1:
        raise ValueError(f"{argument}: expected a number or a floating-point tensor, got {value.dtype}")
    if not (isinstance(value, Tensor) and value.is_floating_point() and (learned or value.ndim)):
        return errors.temperature(argument, value)
    # the last dim must be 1: temperatures per latent could otherwise be mistaken for temperatures per category
    sizes = zip(reversed(value.shape), reversed((*logits.shape[:-1], 1)), strict=False)
    if value.ndim > logits.ndim or not all(n in (1, m) for n, m in sizes):
        expected = f"a number or a tensor (..., 1) that broadcasts to the logits' {tuple(logits.shape)}"
        raise ValueError(f"{argument}: expected {expected}, got shape {tuple(value.shape)}")
    for extreme in value.detach().aminmax() if value.numel() else ():
        errors.temperature(argument, float(extreme))
    return value.to(logits) if value.ndim else value.to(logits.device)


def surrogate_loss(
    estimator: Estimator | str,
    logits: Tensor,
    f: Callable[[Tensor], Tensor],
    *,
    binary: bool = False,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    baseline: RunningMean | None = None,
) -> Tensor:
    """Losses whose backward pass is the estimate of an estimator (one draw per example), for your own training loop.

    With points z_e drawn by the estimator, shares w_e (`Estimator.weights`; else equal) and `stop` for detach,

        sum_e w_e f(z_e)  +  <l - stop(l), stop(estimate)>

    The bracket has the value 0, so the value is the loss. Its gradient with respect to the logits is the estimate. Its
    gradient with respect to other inputs of f, for example the decoder's parameters, is autograd's of the weighted loss
    at fixed codes. If f also uses the logits, for example in a KL term, autograd's gradient of that is added.

    f is called once. Its rows are all evaluations of all examples, evaluation by evaluation: rows 0 .. example-1 are
    the first evaluation of each example. So observations x (example, ...) match codes (n, latent, category) as

        x.repeat(n // len(x), *[1] * (x.ndim - 1))

    which is x itself for estimators of one evaluation. If the estimator uses df/dz, this function makes a backward pass
    to the codes; `backward` on the result makes the one to the parameters. If the logits need no gradient
    (torch.no_grad, or requires_grad=False), the result is the weighted loss, and `baseline` does not change. Only a
    baseline waits for the device, because it reads the losses.

    Parameters
    ----------
    estimator : a name, `"rloo"`, with parameters, `"rloo:n=4,tf=1.6"`, or an Estimator
    logits : floating-point tensor (example, latent, category); binary: (example, latent). Finite, or -inf for an
        impossible category, +-inf for a unit that is certain
    f : maps codes (n, latent, category) to losses (n,), n = evaluations x examples; binary: codes (n, latent) in [0, 1]
    binary : whether the latents are units with one logit each
    top_k : the number of categories that each latent takes, whose codes are k-hot; None: one
    generator : source of the noise, on the logits' device; torch's default generator if None
    baseline : for `reinforce:baseline=running-mean`, one RunningMean for the whole training

    Returns
    -------
    Tensor (example,), in the unit of f. Call backward on its mean or sum.

    Raises
    ------
    ValueError
        An estimator that is unknown or for the other kind of latent; logits or losses that have a wrong shape or are no
        floating-point tensor; losses that are not differentiable with respect to the codes, if the estimator uses
        df/dz; a baseline that is missing, has another decay, or is not used. SpaceTooLarge, a ValueError, from `exact`.

    Examples
    --------
    >>> logits = torch.zeros(5, 3, 8, requires_grad=True)
    >>> weight = torch.arange(24.0)
    >>> loss = gradlab.estimators.surrogate_loss("rloo:n=4", logits, lambda z: z.flatten(1) @ weight)
    >>> loss.mean().backward()
    >>> logits.grad.shape
    torch.Size([5, 3, 8])
    """
    if binary and top_k is not None:
        raise ValueError(f"top_k: expected None beside binary=True, got {top_k!r}")
    kind = BINARY if binary else CATEGORICAL if top_k is None else KHot(top_k)
    chosen = _estimator(estimator, kind)
    _check_logits(logits, kind)
    _check_baseline(chosen, baseline)
    wanted = torch.is_grad_enabled() and logits.requires_grad
    fixed = bounded(kind, _wide(logits.detach()))
    shape = (chosen.noise_arrays, *logits.shape)
    noise = kind.noise(shape, dtype=fixed.dtype, device=logits.device, generator=generator)
    of_network = fixed.new_empty(0)

    def loss_at(points: Tensor, differentiated: bool) -> tuple[Tensor, Tensor | None]:
        nonlocal of_network
        codes = points.flatten(0, 1).to(logits.dtype).requires_grad_(differentiated)
        loss = _losses(f, codes).reshape(points.shape[:2])
        of_network = weighted(loss, chosen.weights(kind, fixed, points.detach()))
        derivative = _derivative(chosen, loss, codes).reshape(points.shape).to(fixed) if differentiated else None
        return loss.detach().to(fixed.dtype), derivative

    if not wanted:
        loss_at(points_of(chosen, kind, fixed, noise), False)
        return of_network
    (estimate,) = evaluate([chosen], kind, fixed, noise, loss_at, [baseline])
    difference = torch.where(logits.isfinite(), logits - logits.detach(), 0.0)  # 0 in value
    # in the estimate's precision: 0 times an estimate above the largest float16 is 0
    return of_network + (difference.to(estimate.dtype) * estimate).flatten(1).sum(1).to(logits.dtype)


def _estimator(given: Estimator | str, kind: LatentKind) -> Estimator:
    if isinstance(given, type):
        raise ValueError(
            f"estimator: expected a name or an instance, {given.__name__}(), got the class {given.__name__}"
        )
    chosen = given if isinstance(given, Estimator) else registry.parse(given)
    if kind.name not in chosen.kinds:
        cure = "; give binary=False with logits (example, latent, category)"
        if kind is CATEGORICAL:
            cure = "; give binary=True with logits (example, latent)"
        kinds = " and ".join(chosen.kinds)
        raise ValueError(
            f"estimator: expected one for {kind.name} latents, got {chosen.label} for {kinds} latents"
            f"{cure if kind.one_hot else ''}"
        )
    return chosen


def _check_logits(logits: Tensor, kind: LatentKind) -> None:
    if not (isinstance(logits, Tensor) and logits.is_floating_point()):
        got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"logits: expected a floating-point tensor, got {got}")
    if torch._C._functorch.is_functorch_wrapped_tensor(logits):
        raise ValueError(
            "logits: expected a tensor outside of torch.func, got one inside grad or vmap, where no backward pass is"
            " possible; call backward on the loss, or sample with a layer such as gradlab.decoupled_st_gumbel_softmax"
        )
    if isinstance(kind, KHot) and logits.ndim and logits.shape[-1] < kind.k:
        raise ValueError(f"top_k: expected at most the {logits.shape[-1]} categories of the logits, got {kind.k}")
    if logits.ndim != 2 + kind.event_dims:
        wanted = "(example, latent)" if kind is BINARY else "(example, latent, category)"
        other = "" if kind is BINARY else ", or, with binary=True, (example, latent)"
        raise ValueError(f"logits: expected shape {wanted} for {kind.name} latents{other}, got {tuple(logits.shape)}")


def _check_baseline(estimator: Estimator, baseline: RunningMean | None) -> None:
    decay = estimator.baseline_decay
    if decay is None and baseline is not None:
        cure = "leave it out, or take reinforce:baseline=running-mean"
        raise ValueError(f"baseline: expected none, because {estimator.label} subtracts none, got {baseline!r}; {cure}")
    if decay is not None and not (isinstance(baseline, RunningMean) and baseline.decay == decay):
        got = f"a RunningMean({baseline.decay})" if isinstance(baseline, RunningMean) else repr(baseline)
        raise ValueError(
            f"baseline: expected a gradlab.estimators.RunningMean({decay}) for {estimator.label}, made once before the"
            f" loop, got {got}"
        )


def _losses(f: Callable[[Tensor], Tensor], codes: Tensor) -> Tensor:
    loss = f(codes.clone())  # a copy, since f may work in place
    n = len(codes)
    if not isinstance(loss, Tensor):
        raise ValueError(f"f: expected a tensor of one loss per row, shape ({n},), got a {type(loss).__name__}")
    if not (loss.is_floating_point() and loss.shape == (n,) and loss.device == codes.device):
        got = f"{loss.dtype} of shape {tuple(loss.shape)} on {loss.device}"
        raise ValueError(
            f"f: expected one floating-point loss per row of codes {tuple(codes.shape)}, shape ({n},) on"
            f" {codes.device}, got {got} (rows are evaluation by evaluation: repeat x with x.repeat(n // len(x), ...))"
        )
    return loss


def _derivative(estimator: Estimator, loss: Tensor, codes: Tensor) -> Tensor:
    """df/dz of each row: of the loss itself, even if the row's share is 0."""
    found = None
    if loss.requires_grad:
        (found,) = torch.autograd.grad(loss.sum(), codes, retain_graph=True, allow_unused=True)
    if found is None:
        raise ValueError(
            f"f: expected losses that torch can differentiate with respect to the codes, since {estimator.label} uses"
            " df/dz, got others (detach, argmax, numpy, an embedding by index?); rloo and reinforce need no derivative"
        )
    return found
