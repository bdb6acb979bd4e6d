"""LatentModel: encoder, code space, decoder and likelihood, with the loss and its derivative at given codes."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import calls, decoded, errors, latents, likelihoods, owned
from .k_hot import KHot
from .latent_groups import Groups
from .programs.program import Program


class LatentModel(nn.Module):
    """A model with categorical, binary or k-hot latents.

    Encoder, decoder and likelihood must compute each row from that row alone and return the same values every time.
    Other models are refused when they are measured, because every metric is wrong for them.

    Parameters
    ----------
    encoder
        x -> logits `(example, latent*category)` or `(example, latent, category)`; of latents with a shape also
        `(example, *latents, category)`, categories last, where a convolution has them second;
        binary: one logit per unit, `(example, latent)` or any shape `(example, *unit shape)`;
        groups: a dict of logits by name, or a tuple in their order, each `(example, latents, categories)` or flat.
        It may also return a tuple (logits, state, ...), of which only the logits are used.
    decoder
        codes `(n, latent, category)`, one-hot or relaxed -> likelihood parameters `(n, ...)`, for the named
        likelihoods `(n, *x shape)`; of latents with a shape: codes `(n, *latents, category)`;
        binary: units `(n, *unit shape)` in [0, 1]; groups: one dict of codes by name `(n, latents, categories)`.
        With `conditional` it takes codes and x, one row of x for each code. If the likelihood is a callable, the
        decoder may return anything that the callable takes: tuples, dicts, a distribution.
    latents, categories
        The code space has categories**latents configurations. `latents` is a number or a shape, (8, 8) for a grid;
        results have one dim `latent`, in row-major order. For binary units `categories` is 2.
    likelihood
        "bernoulli" (parameters are logits; nats summed over x), "gaussian" (squared error, mean over x), or any
        callable (parameters, x) -> loss per example `(n,)`. Pass further inputs, such as labels, as columns of x that
        the encoder ignores: x = torch.cat([images.flatten(1), labels[:, None]], 1). The loss receives x unchanged: it
        is not rounded to the precision of the weights, and integers stay integers.
    groups
        Replaces latents and categories: {"content": (4, 8), "style": (2, 3)}, name -> (latents, categories). Results
        have them along `latent` in this order, with the largest number of categories. The gradient at a category that
        a latent lacks is 0.
    top_k
        Each latent takes this number of its categories, without order: codes are k-hot, of the `top_k` largest of
        l/tf + g (see `gradlab.k_hot`). None: one category.
    conditional
        The decoder sees x: it is called as decoder(codes, x), with x of floating point in the precision of the codes.

    Raises
    ------
    ValueError
        Sizes below 1 (2 for categories), an unknown likelihood, `binary=True` with categories other than 2, groups
        beside latents, categories or binary, `top_k` beside binary or groups, above 8 or above categories, a decoder
        that cannot be called as `conditional` says.

    Examples
    --------
    >>> from torch import nn
    >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 4 * 8))
    >>> decoder = nn.Sequential(nn.Flatten(), nn.Linear(4 * 8, 784), nn.Unflatten(1, (1, 28, 28)))
    >>> model = gradlab.LatentModel(encoder, decoder, latents=4, categories=8, likelihood="bernoulli")
    >>> x = gradlab.datasets.load("mnist-sample").first(2).floats()
    >>> model.logits(x).shape
    torch.Size([2, 4, 8])
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
        conditional: bool = False,
        top_k: int | None = None,
    ):
        super().__init__()
        for name, module in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(module, nn.Module):
                raise ValueError(f"{name}: expected a torch.nn.Module, got a {type(module).__name__}")
        self.encoder = encoder
        self.decoder = decoder
        self.conditional = bool(conditional)
        calls.check_inputs(decoder, self.conditional)
        self.groups = None if groups is None else Groups(groups)
        if self.groups is not None:
            if latents is not None or categories is not None or binary:
                raise ValueError(
                    "groups: expected no latents, categories or binary beside groups, which contain the sizes, got some"
                )
            latents, categories = len(self.groups.category_counts), max(self.groups.category_counts)
        shape = latents if isinstance(latents, tuple | list) else (latents,)
        self.latent_shape = tuple(errors.whole_number("latents", n, 1) for n in shape)
        self.latents = math.prod(self.latent_shape)
        self.categories = errors.whole_number("categories", 2 if categories is None else categories, 2)
        if binary and self.categories != 2:
            raise ValueError(f"categories: expected 2 with binary=True, got {categories}")
        self.binary = binary
        self.top_k = None if top_k is None else self._checked(top_k)
        # of the units as the decoder takes them; None: as the encoder gives them (see with_units)
        self.unit_shape = self.latent_shape if binary and isinstance(latents, tuple | list) else None
        self._likelihood = likelihoods.resolve(likelihood)
        self._weighted = owned.weighted(self._likelihood)
        # of copies that are measured in float64: parts that run in their own precision only (see `copies`)
        self.narrow: dict[str, torch.dtype] = {}
        self.architecture: str | None = None  # set, with config, by networks.build
        self.config: dict[str, Any] = {}
        self.provenance: dict[str, Any] = {}  # how it was trained

    def extra_repr(self) -> str:
        name = getattr(self._likelihood, "name", None) or getattr(self._likelihood, "__name__", "own")
        if self.groups is not None:
            sizes = ", ".join(f"{group}={size}" for group, size in self.groups.sizes.items())
        else:
            shape = self.latent_shape if len(self.latent_shape) > 1 else self.latents
            sizes = f"latents={shape}, " + ("binary=True" if self.binary else f"categories={self.categories}")
        top_k = "" if self.top_k is None else f", top_k={self.top_k}"
        return f"{sizes}{top_k}, likelihood={name}{', conditional=True' * self.conditional}"

    @property
    def likelihood(self) -> likelihoods.Likelihood:
        return self._likelihood

    @property
    def kind(self) -> latents.LatentKind:
        if self.top_k is not None:
            return KHot(self.top_k)
        return latents.BINARY if self.binary else latents.CATEGORICAL

    @property
    def category_counts(self) -> tuple[int, ...]:
        """The number of categories of each latent. Not stored, so that a file with 10^9 latents uses no memory."""
        return (self.categories,) * self.latents if self.groups is None else self.groups.category_counts

    @property
    def code_counts(self) -> tuple[int, ...]:
        """The number of codes of each latent: its categories, or its sets of `top_k` categories."""
        if self.top_k is None:
            return self.category_counts
        return (self.kind.code_count(self.categories),) * self.latents

    def codes_at(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """Codes `(..., latent[, category])` of the numbers `(..., latent)` of each latent's codes."""
        return self.kind.codes(indices, self.categories, dtype)

    @property
    def code_shape(self) -> tuple[int, ...]:
        """(latent, category), or (latent,) for binary units."""
        return (self.latents,) if self.binary else (self.latents, self.categories)

    @property
    def configurations(self) -> int:
        """The number of configurations in the code space."""
        return math.prod(self.code_counts)

    def _checked(self, top_k: int) -> int:
        if self.binary or self.groups is not None:
            beside = "binary=True" if self.binary else "groups"
            raise ValueError(f"top_k: expected None beside {beside}, got {top_k!r}")
        k = KHot(top_k).k
        if k > self.categories:
            raise ValueError(f"top_k: expected at most categories = {self.categories}, got {k}")
        return k

    def logits(self, x: Tensor) -> Tensor:
        """Encoder logits `(example, latent, category)`; binary: `(example, latent)`.

        Raises ValueError if the output of the encoder does not fit the code space.
        """
        return self.encoded(x)[0]

    def encoded(self, x: Tensor) -> tuple[Tensor, tuple[int, ...] | None]:
        """The logits and, for binary latents, the shape of the units in the output of the encoder."""
        own = self.narrow.get("encoder")
        out = self._logits_of(calls.apply(self.encoder, "encoder", x if own is None else decoded.wide(x, own)))
        out = out if own is None else decoded.wide(out, torch.float64)
        if self.groups is not None:
            return self.groups.joined(out, len(x)), None
        shaped = () if self.binary else (*self.latent_shape, self.categories)
        possible = dict.fromkeys([(math.prod(self.code_shape),), self.code_shape, *([shaped] if shaped else [])])
        expected = " or ".join(str((len(x), *s)) for s in possible)
        if not isinstance(out, Tensor) or out.ndim < 2 or out.shape[0] != len(x):
            raise ValueError(
                f"encoder: expected logits of shape {expected} for {len(x)} examples, got {decoded.described(out)}"
            )
        if math.prod(out.shape[1:]) != math.prod(self.code_shape) or (
            not self.binary and tuple(out.shape[1:]) not in possible
        ):
            second = shaped and tuple(out.shape[1:]) == (self.categories, *self.latent_shape)
            of_units = "binary, one logit per unit" if self.binary else f"{self.categories} categories"
            raise ValueError(
                f"encoder: expected logits of shape {expected} for {self.latents} latents ({of_units}), got"
                f" {tuple(out.shape)}{'; put categories last: .movedim(1, -1)' if second else ''}"
            )
        units = tuple(out.shape[1:]) if self.binary else None
        if out.ndim > 2 and self.binary and units != (self.unit_shape or units):
            raise ValueError(f"encoder: expected units of shape {self.unit_shape}, got {units}")
        return out.reshape(len(x), *self.code_shape), units

    def _logits_of(self, out: Any) -> Any:
        """The logits of an encoder's output: of a tuple (logits, state, ...) the first, if no other may be meant."""
        if not (isinstance(out, tuple | list) and out):
            return out
        if self.groups is None:
            alike = [part for part in out if isinstance(part, Tensor) and part.shape == getattr(out[0], "shape", None)]
            return out[0] if len(alike) == 1 else out
        return out[0] if isinstance(out[0], Mapping | tuple | list) else out

    def with_units(self, shape: tuple[int, ...] | None) -> LatentModel:
        """This model, or a copy that shares its modules and knows the shape of the units for its decoder."""
        if shape is None or self.unit_shape is not None:
            return self
        knowing = copy.copy(self)
        knowing.unit_shape = shape
        return knowing

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Any:
        """Likelihood parameters `(n, *x shape)` of codes `(n, latent, category)`; binary: `(n, latent)`.

        A conditional decoder also takes x, one row for each code.
        """
        own = self.narrow.get("decoder", codes.dtype)
        given = [self.decoder_input(codes.to(own))]
        if self.conditional:
            if x is None:
                raise ValueError("x: expected observations beside the codes for a conditional decoder, got none")
            given.append(decoded.wide(x, own))
        out = calls.apply(self.decoder, "decoder", *given)
        if out is None or isinstance(out, bool | int | float | str):
            raise ValueError(f"decoder: expected one row per code for {len(codes)} codes, got a {type(out).__name__}")
        if isinstance(out, Tensor) and (out.ndim < 1 or out.shape[0] != len(codes)):
            raise ValueError(f"decoder: expected one row per code for {len(codes)} codes, got {decoded.described(out)}")
        for tensor in decoded.tensors(out):
            if isinstance(out, Tensor) or tensor.is_floating_point():
                calls.check_precision("decoder", own, tensor)
        return out if own == codes.dtype else decoded.wide(out, codes.dtype)

    def decoder_input(self, codes: Tensor) -> Any:
        """The input of the decoder for codes `(n, latent, category)`; binary: `(n, latent)`."""
        if self.groups is not None:
            return self.groups.apart(codes)
        if self.binary:
            return codes if self.unit_shape is None else codes.reshape(len(codes), *self.unit_shape)
        return codes.reshape(len(codes), *self.latent_shape, self.categories)

    def losses(self, codes: Tensor, x: Tensor) -> Tensor:
        """f(z, x) for pairs of codes and images: `(n,)`.

        Of several codes per example, evaluation by evaluation, x is `torch.cat([x] * evaluations)`.
        """
        if len(codes) != len(x):
            times, rest = divmod(len(codes), max(len(x), 1))
            cure = "" if rest else f"; for {times} codes per example give torch.cat([x] * {times})"
            raise ValueError(f"x: expected one row for each of {len(codes)} codes, got {len(x)}{cure}")
        return self.losses_of(self.decode(codes, x), x, codes.dtype)

    def losses_of(self, parameters: Any, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The likelihood at the decoder's output, row by row: `(n,)`, in the precision of the codes."""
        dtype = dtype or parameters.dtype
        if isinstance(self.likelihood, likelihoods.Canonical):
            check_pixels(parameters, x)
        wide, observed = self.in_one_precision(parameters, x, dtype)
        try:
            loss = self.likelihood(wide, observed)
        except (RuntimeError, IndexError) as error:
            errors.pass_on_memory(error)
            raise ValueError(
                "likelihood: expected a decoder's output that fits the images, got parameters"
                f" {calls.described(wide)} with x {calls.described(observed)} ({calls.first_line(error)})"
                f"{calls.cure(error)}"
            ) from error
        if not isinstance(loss, Tensor) or tuple(loss.shape) != (len(x),):
            raise ValueError(
                f"likelihood: expected a loss per example, shape ({len(x)},), got {decoded.described(loss)} for"
                f" {len(x)} examples"
            )
        if not self.narrow:
            calls.check_precision("likelihood", dtype, loss)
        return loss.to(dtype)

    def in_one_precision(self, parameters: Any, x: Tensor, dtype: torch.dtype | None = None) -> tuple[Any, Tensor]:
        """Parameters and x as the loss takes them: both in the wider precision of the two, whole numbers as they are.

        So no number of x is rounded, whatever the precision of the weights. A likelihood with weights of its own takes
        parameters in the precision of the weights.
        """
        if self._weighted and "decoder" in self.narrow:
            dtype = self.narrow["decoder"]
            parameters = decoded.wide(parameters, dtype)
        if not x.is_floating_point():
            return parameters, x
        wide = torch.promote_types(x.dtype, dtype or x.dtype)
        for tensor in decoded.tensors(parameters):
            wide = torch.promote_types(wide, tensor.dtype) if tensor.is_floating_point() else wide
        return parameters if self._weighted else decoded.wide(parameters, wide), x.to(wide)

    def losses_and_derivatives(self, codes: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """f(z, x) `(n,)` and v(z, x) = df/dz, of the codes' shape. Parameters get no gradient."""
        with torch.enable_grad():
            z = codes.detach().requires_grad_()
            loss = self.losses(z.clone(), x)  # a copy, since layers may work in place
            v = calls.gradients("decoder", loss.sum(), z, allow_unused=True)[0] if loss.requires_grad else None
        if v is None:
            raise ValueError(
                "decoder: expected a loss that depends on the codes differentiably, got another (a detach or no_grad"
                " inside?)"
            )
        return loss.detach(), v


def check_is_model(model: object) -> None:
    if isinstance(model, Program):
        raise ValueError(
            "model: expected a gradlab.LatentModel, got a Program, which gradlab.bias, exact_gradient and Monitor take"
        )
    if not isinstance(model, LatentModel):
        wrapped = next(
            (name for name in ("_orig_mod", "module") if isinstance(getattr(model, name, None), nn.Module)), ""
        )
        cure = f"pass its {wrapped}" if wrapped else "gradlab.load reads a file"
        raise ValueError(f"model: expected a gradlab.LatentModel, got a {type(model).__name__} ({cure})")


def check_pixels(parameters: Any, x: Tensor) -> None:
    if not isinstance(parameters, Tensor):
        raise ValueError(
            f"decoder: expected a tensor of parameters for a named likelihood, got {decoded.described(parameters)};"
            " pass a callable (parameters, x) -> loss per example as likelihood"
        )
    if math.prod(parameters.shape[1:]) != math.prod(x.shape[1:]):
        raise ValueError(
            f"decoder: expected one parameter per pixel for x of shape {tuple(x.shape)}, got parameters of shape"
            f" {tuple(parameters.shape)}"
        )


def own_tensor(model: nn.Module) -> Tensor | None:
    """The first floating-point parameter or buffer: its dtype and device are the model's."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)


def precision(model: LatentModel, x: Tensor) -> torch.dtype:
    """That of the codes the decoder takes: its parameters', or where it has none that of x, float64 beside integers."""
    own = own_tensor(model)
    if model.narrow:
        return torch.float64
    return own.dtype if own is not None else x.dtype if x.is_floating_point() else torch.float64
