"""A model as it is measured: copied to precision and place, checked, with its observations and logits."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import checks, decoded, errors, latents, likelihoods, model_checks, output_scale
from .copies import measured_copy, narrow_parts
from .latents import LatentKind
from .methods import Compute
from .model import LatentModel, check_is_model, check_pixels, own_tensor, precision
from .numerics import MEMORY, plain_arithmetic, precision_and_place, working_memory


@dataclass(frozen=True)
class Setup:
    """What a measurement works with. Nothing that measures writes to the user's model."""

    original: LatentModel  # in its own precision: what the exact gradient is computed from
    model: LatentModel  # in the precision and place of the draws
    x: Tensor  # observations (example, ...), in the model's place and the precision they were given in
    logits: Tensor  # (example, latent[, category]), in the precision of the draws
    seed: int = 0
    memory: int = MEMORY  # bytes of working memory, about
    progress: bool = False  # whether bars are drawn on standard error

    @property
    def kind(self) -> LatentKind:
        return self.model.kind

    @functools.cached_property
    def narrow(self) -> dict[str, torch.dtype]:
        """Parts of the model that run in their own precision and not in float64; warns of them."""
        found, reason = narrow_parts(self.original, self.x)
        for part, own in found.items():
            stated = "; exact_gradient_error states them" if part == "decoder" else ""
            errors.warn(
                f"{part}: expected one that runs in float64 too, got one that runs in {own} only, so what is exact has"
                f" the rounding errors of {own}{stated}. {reason}"
            )
        return found

    def in_precision(self, dtype: torch.dtype, model: LatentModel | None = None) -> LatentModel:
        """A copy of the original, or of another model of the same weights, in this precision; see `narrow`."""
        model = model or self.original
        own = precision(model, self.x)
        narrow = dict.fromkeys(self.narrow, own) if dtype == torch.float64 != own else None
        return measured_copy(model, dtype, self.x.device, narrow)

    @property
    def wide_logits(self) -> Tensor:
        """The logits in float64: the point at which gradients are taken, exactly."""
        return self.logits.double()


def prepare(model: LatentModel, x: Any, compute: Compute | None = None, seed: int = 0) -> Setup:
    """The Setup of a measurement of `model` at `x`. To be called, and used, within `plain_arithmetic`.

    Raises ValueError for an object that is no model, a model that breaks a rule (see `model_checks`), observations
    that do not fit it, and a device or dtype that cannot be used.
    """
    compute = compute or Compute()
    check_is_model(model)
    precision_and_place(compute.dtype, compute.device)
    measured = measured_copy(model, compute.dtype, compute.device)
    x = observations(measured, x)
    known, logits = _encoded(measured, x)
    memory = working_memory(compute.memory, x.device)
    original = known if measured is model else model.with_units(known.unit_shape)
    return Setup(original, known, x, logits, errors.whole_number("seed", seed, 0), memory, compute.progress)


def observations(model: LatentModel, x: Any) -> Tensor:
    """x as a checked tensor in the model's place, in the precision it is given: it belongs to the loss.

    Raises ValueError for values that are not finite, no examples, or targets outside the likelihood's range.
    """
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        errors.pass_on_memory(error)
        if isinstance(x, Mapping | tuple | list) and len(x):
            raise ValueError(
                f"x: expected one tensor, examples first, got a {type(x).__name__} of {_names(x)}; join its tensors as"
                " columns of one (torch.cat), or write the model as a gradlab.Program, whose x may be a dict or a tuple"
            ) from None
        raise ValueError(f"x: expected a tensor of images, got a {type(x).__name__} ({error})") from None
    if x.layout != torch.strided:
        raise ValueError(f"x: expected a dense tensor, got layout {x.layout}; use x.to_dense()")
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"x: expected a batch of at least one example, (example, ...), got shape {tuple(x.shape)}")
    canonical = isinstance(model.likelihood, likelihoods.Canonical)
    if x.is_complex() or (canonical and not x.is_floating_point()):
        expected = "floating-point observations for a named likelihood"
        cure = (
            "token ids and labels need a likelihood of your own, (parameters, x) -> loss per example, such as a cross"
            " entropy; numbers x.float()"
        )
        if x.dtype == torch.uint8:
            expected, cure = "floating-point images (grey values in [0, 1]: x.float() / 255)", ""
        elif x.is_complex():
            expected, cure = "real numbers", "torch.view_as_real(x) has both parts"
        raise ValueError(f"x: expected {expected}, got {x.dtype}{cure and '; ' + cure}")
    checks.finite("x", x, "observations must be finite")
    if isinstance(model.likelihood, likelihoods.Canonical):
        model.likelihood.check(x)
    own = own_tensor(model)
    # a tensor of our own: no history, no inference mode
    return x.detach().clone() if own is None else x.detach().to(device=own.device, copy=True)


def _names(x: Any) -> str:
    """The parts of a value that is no tensor, as a message names them."""
    if isinstance(x, Mapping):
        return ", ".join(str(key) for key in itertools.islice(x, 4))
    return f"{len(x)} {type(x[0]).__name__}s"


@torch.no_grad()
def for_encoder(model: LatentModel, x: Tensor) -> Tensor:
    """x as the encoder takes it: as it is, or where the encoder refuses that, in the precision of its weights.

    Warns of whole numbers that this precision cannot hold, token ids say, where the encoder reads them.
    """
    own = precision(model, x)
    if not x.is_floating_point() or x.dtype == own:
        return x
    try:
        model.logits(x[:1].clone())
    except ValueError:
        narrow = x.to(own)
    else:
        return x
    _warn_of_rounding("encoder", x, narrow, model.logits)
    return narrow


@torch.no_grad()
def _for_conditional(model: LatentModel, x: Tensor) -> None:
    """Warns where a conditional decoder reads whole numbers that the precision of the codes cannot hold."""
    own = precision(model, x)
    if not (model.conditional and x.is_floating_point()) or x.dtype == own:
        return

    def read(some: Tensor) -> Tensor:
        first = torch.zeros(1, model.latents, dtype=torch.long, device=x.device)
        out = model.decode(model.codes_at(first, own), some)
        return decoded.rows(out, 1)

    _warn_of_rounding("decoder", x, x.to(own), read)


def _warn_of_rounding(part: str, x: Tensor, narrow: Tensor, read: Callable[[Tensor], Tensor]) -> None:
    """Warns if `narrow` has another whole number than x, and what `read` returns for its example depends on it."""
    rounded = (narrow.to(x.dtype) != x) & (x == x.round())
    if bool(rounded.any()):
        at = tuple(torch.nonzero(rounded)[0].tolist())
        some = slice(at[0], at[0] + 1)
        other = narrow[some].masked_fill(rounded[some], 0.0)
        if not torch.equal(read(narrow[some].clone()), read(other)):
            errors.warn(
                f"x: the {part} reads {x[at].item():.17g} at index {at} as {narrow[at].item():.17g}, since its weights"
                f" are {narrow.dtype}; where that is a token id or a label, take wider weights (model.double())"
            )


def encode(model: LatentModel, x: Tensor) -> Tensor:
    """The model's logits at x, checked to be finite, without gradient.

    In full precision, also where the decoder's is less: the logits are the point at which gradients are taken.

    Raises ValueError for a model that breaks a rule (see `model_checks`), whose every figure would be wrong.
    """
    return _encoded(model, x)[1]


def _encoded(model: LatentModel, x: Tensor) -> tuple[LatentModel, Tensor]:
    """The model, which knows the shape of its units, and its logits."""
    with plain_arithmetic(), model_checks.unchanged(model):
        seen = for_encoder(model, x)
        with torch.no_grad():
            # copies, since layers may work in place, and logits may be a view of parameters
            found, units = model.encoded(seen.clone())
            logits = found.detach().to(precision(model, x), copy=True)
        model = model.with_units(units)
        logits = latents.bounded(model.kind, logits)
        cure = "expected finite logits, -inf for an impossible category beside a possible one (has training diverged?)"
        checks.finite("logits", logits, cure)
        _for_conditional(model, x)
        if not model_checks.computes_by_row(model):
            model_checks.check(model, x, seen, logits)
        output_scale.check(model, x, seen, logits)
    return model, logits


def reconstruct(model: LatentModel, x: Any, tf: float = 1.0, seed: int = 0) -> Tensor:
    """Expected pixels, of x's shape, at one code per example from softmax(l/tf).

    Raises ValueError as `observations` and `encode` do, and for a likelihood of the user's, whose pixels are not known.
    """
    likelihood = model.likelihood
    if not isinstance(likelihood, likelihoods.Canonical):
        raise ValueError(
            "likelihood: expected bernoulli or gaussian for reconstructions, got another, whose expected pixels are"
            " not known"
        )
    tf = errors.temperature("tf", tf)
    with plain_arithmetic(), torch.no_grad():
        setup = prepare(model, x, seed=seed)
        model, x, logits = setup.model, setup.x, setup.logits
        generator = torch.Generator(x.device).manual_seed(latents.derived_seed(setup.seed, "reconstruct"))
        noise = model.kind.noise(tuple(logits.shape), dtype=logits.dtype, device=x.device, generator=generator)
        parameters = model.decode(model.kind.hard(logits / tf + noise), x)
        check_pixels(parameters, x)
        return likelihood.mean(parameters).reshape(x.shape)
