"""LatentModel: encoder, code space, decoder and likelihood; the loss and its derivative at given codes."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import checks, errors, latents, likelihoods, model_checks, output_scale
from .latent_groups import Groups
from .numerics import plain_arithmetic


class LatentModel(nn.Module):
    """A model with categorical or binary latents, as gradlab measures it.

    A row of encoder, decoder and likelihood must be computed from that row alone, and be the same every time; a model
    that does otherwise is refused when it is measured, since every figure would be wrong.

    Parameters
    ----------
    encoder
        x -> logits `(example, latent*category)` or `(example, latent, category)`; of latents with a shape also
        `(example, *latents, category)`, categories last, where a convolution has them second;
        binary: one logit per unit, `(example, latent)` or any shape `(example, *unit shape)`;
        groups: a dict of logits by name, or a tuple in their order, each `(example, latents, categories)` or flat.
    decoder
        codes `(n, latent, category)`, one-hot or relaxed -> likelihood parameters `(n, ...)`, for the named
        likelihoods `(n, *x shape)`; of latents with a shape: codes `(n, *latents, category)`;
        binary: units `(n, *unit shape)` in [0, 1]; groups: one dict of codes by name `(n, latents, categories)`.
    latents, categories
        Size of the code space, categories**latents configurations. `latents` counts them or gives their shape,
        (8, 8) for a grid; results have one dim `latent`, the last of the shape turning fastest. Binary: `categories`
        is 2.
    likelihood
        "bernoulli" (parameters are logits; nats summed over x), "gaussian" (squared error, mean over x), or any
        callable (parameters, x) -> loss per example `(n,)`. Pass further inputs, such as labels, as columns of x that
        the encoder leaves alone: x = torch.cat([images.flatten(1), labels[:, None]], 1). The loss gets x as it is
        given: no column is rounded to the precision of the weights, and whole numbers stay whole.
    groups
        In place of latents and categories: {"content": (4, 8), "style": (2, 3)}, name -> (latents, categories).
        Results have them along `latent` in this order, `categories` being the most of any; the gradient at a
        category that a latent does not have is 0.

    Raises
    ------
    ValueError
        Sizes below 1 (2 for categories), an unknown likelihood, `binary=True` with categories other than 2, groups
        beside latents, categories or binary.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        latents: int | tuple[int, ...] | None = None,
        categories: int | None = None,
        likelihood: str | likelihoods.Likelihood = "bernoulli",
        binary: bool = False,
        groups: Mapping[str, tuple[int, int]] | None = None,
    ):
        super().__init__()
        for name, module in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(module, nn.Module):
                raise ValueError(f"{name}: got a {type(module).__name__}; a torch.nn.Module is needed")
        self.encoder = encoder
        self.decoder = decoder
        self.groups = None if groups is None else Groups(groups)
        if self.groups is not None:
            if latents is not None or categories is not None or binary:
                raise ValueError("groups: got latents, categories or binary too; groups say the sizes by themselves")
            latents, categories = len(self.groups.category_counts), max(self.groups.category_counts)
        shape = latents if isinstance(latents, tuple | list) else (latents,)
        self.latent_shape = tuple(errors.whole_number("latents", n, 1) for n in shape)
        self.latents = math.prod(self.latent_shape)
        self.categories = errors.whole_number("categories", 2 if categories is None else categories, 2)
        if binary and self.categories != 2:
            raise ValueError(f"categories: got {categories} with binary=True; binary latents have 2 categories")
        self.binary = binary
        # what the decoder is given; of a mere number of units the encoder's output tells
        self.unit_shape = self.latent_shape if binary and isinstance(latents, tuple | list) else None
        self._likelihood = likelihoods.resolve(likelihood)
        self.architecture: str | None = None  # set, with config, by networks.build
        self.config: dict[str, Any] = {}
        self.provenance: dict[str, Any] = {}  # how it was trained

    @property
    def likelihood(self) -> likelihoods.Likelihood:
        return self._likelihood

    @property
    def kind(self) -> latents.LatentKind:
        return latents.BINARY if self.binary else latents.CATEGORICAL

    @property
    def category_counts(self) -> tuple[int, ...]:
        """Of each latent. Not kept: a file may ask for 10^9 latents, and is refused before they take memory."""
        return (self.categories,) * self.latents if self.groups is None else self.groups.category_counts

    @property
    def code_shape(self) -> tuple[int, ...]:
        """(latent, category), or (latent,) for binary units."""
        return (self.latents,) if self.binary else (self.latents, self.categories)

    @property
    def configurations(self) -> int:
        """Size of the code space."""
        return math.prod(self.category_counts)

    def logits(self, x: Tensor) -> Tensor:
        """Encoder logits `(example, latent, category)`; binary: `(example, latent)`.

        Raises ValueError where the encoder's output does not fit the code space.
        """
        out = _apply(self.encoder, "encoder", x)
        if self.groups is not None:
            return self.groups.joined(out, len(x))
        shaped = () if self.binary else (*self.latent_shape, self.categories)
        possible = dict.fromkeys([(math.prod(self.code_shape),), self.code_shape, *([shaped] if shaped else [])])
        expected = " or ".join(str((len(x), *s)) for s in possible)
        if not isinstance(out, Tensor) or out.ndim < 2 or out.shape[0] != len(x):
            raise ValueError(f"encoder: got {_shape(out)} for {len(x)} examples; logits of shape {expected} would do")
        if math.prod(out.shape[1:]) != math.prod(self.code_shape) or (
            not self.binary and tuple(out.shape[1:]) not in possible
        ):
            second = shaped and tuple(out.shape[1:]) == (self.categories, *self.latent_shape)
            raise ValueError(
                f"encoder: got logits of shape {tuple(out.shape)};"
                f" {self.latents} latents of {self.categories} categories"
                f"{' (binary, one logit per unit)' if self.binary else ''} need {expected}"
                f"{' (categories last: .movedim(1, -1))' if second else ''}"
            )
        if self.binary and self.unit_shape is None:
            self.unit_shape = tuple(out.shape[1:])
        if self.binary and out.ndim > 2 and tuple(out.shape[1:]) != self.unit_shape:
            raise ValueError(f"encoder: got units of shape {tuple(out.shape[1:])}; the model's are {self.unit_shape}")
        return out.reshape(len(x), *self.code_shape)

    def decode(self, codes: Tensor) -> Tensor:
        """Likelihood parameters `(n, *x shape)` of codes `(n, latent, category)`; binary: `(n, latent)`."""
        out = _apply(self.decoder, "decoder", self.decoder_input(codes))
        if not isinstance(out, Tensor) or out.ndim < 1 or out.shape[0] != len(codes):
            raise ValueError(f"decoder: got {_shape(out)} for {len(codes)} codes; one row per code is needed")
        _check_precision("decoder", codes, out)
        return out

    def decoder_input(self, codes: Tensor) -> Any:
        """What the decoder takes for codes `(n, latent, category)`; binary: `(n, latent)`."""
        if self.groups is not None:
            return self.groups.apart(codes)
        if self.binary:
            return codes if self.unit_shape is None else codes.reshape(len(codes), *self.unit_shape)
        return codes.reshape(len(codes), *self.latent_shape, self.categories)

    def losses(self, codes: Tensor, x: Tensor) -> Tensor:
        """f(z, x) for pairs of codes and images: `(n,)`."""
        return self.losses_of(self.decode(codes), x)

    def losses_of(self, parameters: Tensor, x: Tensor) -> Tensor:
        """The likelihood at the decoder's output, row by row: `(n,)`."""
        if isinstance(self.likelihood, likelihoods.Canonical):
            check_pixels(parameters, x)
        wide, observed = self.in_one_precision(parameters, x)
        try:
            loss = self.likelihood(wide, observed)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"likelihood: cannot take parameters of shape {tuple(parameters.shape)} with x of shape"
                f" {tuple(x.shape)}, {wide.dtype} and {observed.dtype} ({_first_line(error)}); the decoder's output"
                " must fit the images"
            ) from error
        if not isinstance(loss, Tensor) or tuple(loss.shape) != (len(parameters),):
            raise ValueError(
                f"likelihood: got {_shape(loss)} for {len(parameters)} examples; a loss per example,"
                f" shape ({len(parameters)},), is needed"
            )
        if torch.promote_types(loss.dtype, parameters.dtype) != loss.dtype:
            _check_precision("likelihood", parameters, loss)
        return loss.to(parameters.dtype)

    def in_one_precision(self, parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters and x as the loss takes them: both in the wider precision of the two, whole numbers as they are.

        So no number of x is rounded, whatever the precision of the weights. A likelihood with weights of its own takes
        parameters in the precision of the weights.
        """
        if not x.is_floating_point():
            return parameters, x
        wide = torch.promote_types(parameters.dtype, x.dtype)
        weighted = isinstance(self.likelihood, nn.Module) and _own_tensor(self.likelihood) is not None
        return parameters if weighted else parameters.to(wide), x.to(wide)

    def losses_and_derivatives(self, codes: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """f(z, x) `(n,)` and v(z, x) = df/dz, of the codes' shape. Parameters get no gradient."""
        with torch.enable_grad():
            z = codes.detach().requires_grad_()
            loss = self.losses(z.clone(), x)  # a copy, since layers may work in place
            v = torch.autograd.grad(loss.sum(), z, allow_unused=True)[0] if loss.requires_grad else None
        if v is None:
            raise ValueError(
                "decoder: the loss does not depend on the codes differentiably (a detach or no_grad inside?)"
            )
        return loss.detach(), v


def check_is_model(model: object) -> None:
    if not isinstance(model, LatentModel):
        raise ValueError(
            f"model: got a {type(model).__name__}; a gradlab.LatentModel is needed (gradlab.load reads a file)"
        )


def check_pixels(parameters: Tensor, x: Tensor) -> None:
    if math.prod(parameters.shape[1:]) != math.prod(x.shape[1:]):
        raise ValueError(
            f"decoder: parameters of shape {tuple(parameters.shape)} do not fit x of shape {tuple(x.shape)};"
            " one parameter per pixel is needed"
        )


def _apply(module: nn.Module, name: str, given: Any) -> Any:
    """The module's output; where torch finds that shapes or types do not fit, a ValueError that says whose."""
    try:
        return module(given)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError) as error:
        reason = _first_line(error)
        parts = given.items() if isinstance(given, dict) else [("", given)]
        came = ", ".join(f"{key and key + ': '}{part.dtype} of shape {tuple(part.shape)}" for key, part in parts)
        raise ValueError(
            f"{name}: cannot take {came} ({reason});"
            f" {'the images must fit the model' if name == 'encoder' else 'it must take codes of that shape'}"
        ) from error


def _check_precision(name: str, given: Tensor, out: Tensor) -> None:
    if out.dtype != given.dtype:
        raise ValueError(
            f"{name}: gives {out.dtype} from {given.dtype}; it must keep the precision it is given, since figures are"
            " computed in several (a .float() inside?)"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _shape(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def measured_copy(model: LatentModel, dtype: torch.dtype | None, device: torch.device | str | None) -> LatentModel:
    """The model as it is measured: in the wanted precision and place, its own left as they are.

    Raises ValueError for layers that make the decoder or encoder random or mix examples while in training mode.
    """
    model_checks.check_modes(model)
    own = _own_tensor(model)
    dtype = dtype or (own.dtype if own is not None else None)
    device = torch.device(device) if device is not None else (own.device if own is not None else None)
    # tensors made in inference mode cannot be differentiated through; copies made outside of it can
    made_for_inference = any(t.is_inference() for t in itertools.chain(model.parameters(), model.buffers()))
    if own is None or ((dtype, device) == (own.dtype, own.device) and not made_for_inference):
        return model
    try:
        return copy.deepcopy(model, _detached_state(model)).to(device=device, dtype=dtype)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"model: cannot be copied to {dtype} on {device} ({_first_line(error)})") from error


def _detached_state(model: nn.Module) -> dict[int, Any]:
    """A memo for deepcopy, which refuses tensors with a history, as a module may keep of its last call."""
    kept = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    return {id(value): value.detach().clone() for value in kept if value.grad_fn is not None}


def _own_tensor(model: nn.Module) -> Tensor | None:
    """The first floating-point parameter or buffer: its dtype and device are the model's."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)


def precision(model: LatentModel, x: Tensor) -> torch.dtype:
    """That of the codes the decoder takes: its parameters', or where it has none that of x, float64 beside integers."""
    own = _own_tensor(model)
    return own.dtype if own is not None else x.dtype if x.is_floating_point() else torch.float64


def observations(model: LatentModel, x: Any) -> Tensor:
    """x as a checked tensor in the model's place, in the precision it is given: it belongs to the loss.

    Raises ValueError for values that are not finite, no examples, or targets outside the likelihood's range.
    """
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"x: got a {type(x).__name__}; a tensor of images is needed ({error})") from None
    if x.layout != torch.strided:
        raise ValueError(f"x: got a tensor of layout {x.layout}; a dense one is needed (x.to_dense())")
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"x: got shape {tuple(x.shape)}; a batch of at least one example, (example, ...), is needed")
    canonical = isinstance(model.likelihood, likelihoods.Canonical)
    if x.is_complex() or (canonical and not x.is_floating_point()):
        raise ValueError(f"x: got {x.dtype}; floating-point images are needed (grey values in [0, 1]: x.float() / 255)")
    checks.finite("x", x, "observations must be finite")
    if isinstance(model.likelihood, likelihoods.Canonical):
        model.likelihood.check(x)
    own = _own_tensor(model)
    # a tensor of our own: no history, no inference mode
    return x.detach().clone() if own is None else x.detach().to(device=own.device, copy=True)


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
    rounded = (narrow.to(x.dtype) != x) & (x == x.round())
    if bool(rounded.any()):
        at = tuple(torch.nonzero(rounded)[0].tolist())
        some = slice(at[0], at[0] + 1)
        other = narrow[some].masked_fill(rounded[some], 0.0)
        if not torch.equal(model.logits(narrow[some].clone()), model.logits(other)):
            warnings.warn(
                f"x: the encoder reads {x[at].item():.17g} at index {at} as {narrow[at].item():.17g}, since its weights"
                f" are {own}; where that is a token id or a label, take wider weights (model.double())",
                stacklevel=3,
            )
    return narrow


def encode(model: LatentModel, x: Tensor) -> Tensor:
    """The model's logits at x, checked to be finite, without gradient.

    In full precision, also where the decoder's is less: the logits are the point at which gradients are taken.

    Raises ValueError for a model that breaks a rule (see `model_checks`), whose every figure would be wrong.
    """
    with plain_arithmetic(), model_checks.unchanged(model):
        seen = for_encoder(model, x)
        with torch.no_grad():
            # copies, since layers may work in place, and logits may be a view of parameters
            logits = model.logits(seen.clone()).detach().to(precision(model, x), copy=True)
        logits = latents.bounded(model.kind, logits)
        cure = "expected finite logits, -inf for an impossible category beside a possible one (has training diverged?)"
        checks.finite("logits", logits, cure)
        if not _computes_by_row(model):
            model_checks.check(model, x, seen, logits)
        output_scale.check(model, x, seen, logits)
    return logits


def _computes_by_row(model: LatentModel) -> bool:
    """Whether no probe is needed to know that a row of the model is computed from that row alone."""
    canonical = isinstance(model.likelihood, likelihoods.Canonical)
    by_row = model_checks.by_row
    return type(model) is LatentModel and canonical and by_row(model.encoder) and by_row(model.decoder)


def reconstruct(model: LatentModel, x: Any, tf: float = 1.0, seed: int = 0) -> Tensor:
    """Expected pixels, of x's shape, at one code per example from softmax(l/tf).

    Raises ValueError as `observations` and `encode` do, and for a likelihood of one's own, whose pixels are not known.
    """
    likelihood = model.likelihood
    if not isinstance(likelihood, likelihoods.Canonical):
        raise ValueError("likelihood: reconstructions need bernoulli or gaussian, whose expected pixels are known")
    tf = errors.temperature("tf", tf)
    seed = errors.whole_number("seed", seed, 0)
    with plain_arithmetic(), torch.no_grad():
        model = measured_copy(model, None, None)
        x = observations(model, x)
        logits = encode(model, x)
        generator = torch.Generator(x.device).manual_seed(latents.derived_seed(seed, "reconstruct"))
        noise = model.kind.noise(tuple(logits.shape), dtype=logits.dtype, device=x.device, generator=generator)
        parameters = model.decode(model.kind.hard(logits / tf + noise))
        check_pixels(parameters, x)
        return likelihood.mean(parameters).reshape(x.shape)
