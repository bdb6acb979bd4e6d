"""Any autograd function from logits to codes as an estimator.

    z = layer(l),   estimate = (dz/dl)^T v(z)

by automatic differentiation through the layer, whose random calls are answered from gradlab's noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ... import errors
from ...latents import BINARY, CATEGORICAL, LatentKind
from ..base import Relaxation
from ..promises import SharedPoints
from . import law as laws
from .calling import Arguments
from .habits import LayerWarning
from .probe import Trial, some_logits, some_noise, tried
from .running import Layer, values_of

LAWS = ("tf", "model")
KINDS = {kind.name: kind for kind in (CATEGORICAL, BINARY)}
LAW_ROWS, LAW_NUMBERS = 20_000, 2**21  # of the check of the law: rows, and numbers of noise at most
WRONG = 1e-9  # p-value below which a law is another one
GREEDY = 50.0  # 1/t above which the most probable category is always taken
MOST_LAWS = 64  # pairs of temperatures at which the law is checked
_SHAPES = {"categorical": (2, 3), "binary": (3,)}  # at which noise arrays are counted before a model is known


@dataclass(frozen=True, kw_only=True)
class LayerEstimator(Relaxation):
    """What the classes that `from_layer` makes share."""

    formula = "(dz/dl)^T v(z), z = layer(l)"
    reference = "your own layer"
    uses = ("derivative",)

    layer: ClassVar[Layer]
    trials: ClassVar[dict[Hashable, Trial]]
    lawful: ClassVar[set[Hashable] | None]  # whose law was checked: kinds, shapes, temperatures; None: none is

    def trial(self, kind: LatentKind, like: Tensor) -> Trial:
        """What is known of the layer for codes like `like` (latent[, category])."""
        key = kind.name, tuple(like.shape)
        if key not in self.trials:
            self.trials[key] = tried(self.layer, kind, like)
        return self.trials[key]

    @property
    def noise_arrays(self):
        if not self.trials:
            kind = KINDS[self.kinds[0]]
            try:
                self.trial(kind, torch.zeros(_SHAPES[kind.name], dtype=torch.get_default_dtype()))
            except ValueError:  # a layer for other sizes: as many as any layer reads
                return 2
        return max(one.noise_arrays for one in self.trials.values())

    @property
    def shared_points(self):
        known = self.noise_arrays and self.trials
        depends = {name for one in known.values() for name in one.depends} if known else {"tf", "tb"}
        at = tuple((name, getattr(self, name)) for name in ("tf", "tb") if name in depends)
        return SharedPoints(("layer", type(self), *at), codes=self.layer.discrete)

    def points(self, kind, logits, noise):
        if logits.is_meta:
            raise ValueError(f"layer: {self.name}: expected numbers, got a meta tensor")
        return self._each(kind, logits, noise, None)[0][None]

    def estimate(self, kind, logits, noise, points, loss, derivative):
        z, found = self._each(kind, logits, noise, derivative[0])
        assert found is not None
        if self.layer.discrete and not torch.equal(z, points[0]):
            raise ValueError(
                f"layer: {self.name}: expected the same codes from the same random numbers, got others for the estimate"
                " than for the loss; does it keep a state?"
            )
        return found

    def _each(self, kind: LatentKind, logits: Tensor, noise: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """`_at` of each model, where temperatures are tensors (model, 1, ...)."""
        if not (isinstance(self.tf, Tensor) or isinstance(self.tb, Tensor)):
            return self._at(kind, logits, noise, v)
        one_each = noise.shape[1], *[1] * (noise.ndim - 2)
        tfs, tbs = (torch.as_tensor(t).expand(one_each).flatten().tolist() for t in (self.tf, self.tb))
        found = [
            self.at(tf, tb)._at(kind, logits[i], noise[:, i], None if v is None else v[i])
            for i, (tf, tb) in enumerate(zip(tfs, tbs, strict=True))
        ]
        estimates = [estimate for _, estimate in found if estimate is not None]
        return torch.stack([z for z, _ in found]), torch.stack(estimates) if estimates else None

    def _at(self, kind: LatentKind, logits: Tensor, noise: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Codes, and the estimate for a derivative at them, both (..., example, latent[, category])."""
        shape, latent = noise.shape[1:], logits.shape[logits.ndim - 1 - kind.event_dims :]
        plan = self.trial(kind, logits.new_empty(latent)).plan
        given, numbers = logits.expand(shape).reshape(-1, *latent), noise.reshape(len(noise), -1, *latent)
        of_rows = None if v is None else v.expand(shape).reshape(-1, *latent)
        z, found = plan.run(self.layer, kind, given, numbers, self.tf, self.tb, of_rows)
        if self.layer.discrete:
            z = self._as_codes(kind, z)
        self._check_law(kind, logits.new_empty(latent))
        return z.reshape(shape), None if found is None else found.reshape(shape)

    def _as_codes(self, kind: LatentKind, z: Tensor) -> Tensor:
        """The codes that hard + soft - soft stands for. ValueError for others."""
        if (values := values_of(kind, z)) == "one-hot":
            return z.round()
        if values == "relaxed":
            raise ValueError(f"layer: {self.name}: expected one-hot codes, got relaxed ones; state discrete=False")
        sums = {float(n) for n in z.sum(-1).flatten()} if kind.event_dims and torch.equal(z, z.round()) else set()
        if len(sums) == 1 and z.min() >= 0:
            raise ValueError(
                f"layer: {self.name}: expected one-hot codes, got k-hot ones, of {sums.pop():g} categories in each"
                " latent; LatentModel(top_k=...) measures such codes, with estimators of the catalogue"
            )
        wanted = "0 and 1" if kind is BINARY else "one-hot codes"
        raise ValueError(
            f"layer: {self.name}: expected {wanted}, got values between {float(z.min()):.3g} and {float(z.max()):.3g};"
            " discrete=False measures them as they are"
        )

    def _check_law(self, kind: LatentKind, like: Tensor) -> None:
        """ValueError where the codes follow softmax(l/t) at another t than stated; a warning where they follow none."""
        key = kind.name, tuple(like.shape), self.tf, self.tb
        if self.lawful is None or key in self.lawful or len(self.lawful) >= MOST_LAWS:
            return
        self.lawful.add(key)
        found = self._fit(kind, like)
        if found is None or (found.z(self.law_tf) < 6 and found.p_value > WRONG):
            return
        stated = "softmax(l/tf)" if self.law == "tf" else "softmax(l)"
        at = f"at tf = {self.tf:g}, tb = {self.tb:g}"
        if found.p_value > WRONG and 0 < found.b < GREEDY and self.layer.discrete:
            cure = "state law='model'" if found.z(1.0) < 6 else "pass the layer the temperature that it samples with"
            self.lawful.discard(key)
            raise ValueError(
                f"layer: {self.name}: expected codes that follow {stated} {at}, as law={self.law!r} states, got"
                f" softmax(l/{found.temperature:.3g}); {cure}"
            )
        if not any(one is None for one in self.lawful):  # said once
            self.lawful.add(None)
            what = "its codes" if self.layer.discrete else "the largest entries of its codes"
            fits = found.p_value > WRONG and 0 < found.b < GREEDY
            t = f"softmax(l/{found.temperature:.3g})" if fits else "softmax(l/t) at no t,"
            errors.warn(
                f"layer: {self.name}: {what} follow {t} {at}; the exact gradient is that of {stated}", LayerWarning
            )

    def _fit(self, kind: LatentKind, like: Tensor) -> laws.Fit | None:
        """The law of the codes; None where they are the stated law's draw by draw."""
        plan = self.trial(kind, like).plan
        for rows in (500, LAW_ROWS):
            rows = max(50, min(rows, LAW_NUMBERS // like.numel()))
            logits, noise = some_logits(1, like), some_noise(kind, rows, like, seed=2)
            z, _ = plan.run(self.layer, kind, logits.expand(rows, *like.shape), noise, self.tf, self.tb)
            counts = laws.counts_of(kind, z)
            wanted = laws.counts_of(kind, kind.hard(logits / self.law_tf + noise[0]))
            hard = (z > 0.5).to(z.dtype) if kind is BINARY else kind.hard(z)
            same = (hard == kind.hard(logits / self.law_tf + noise[0])).double().mean()
            if bool(same > 0.999) and bool(((counts - wanted).abs() <= 0.002 * rows).all()):
                return None
        return laws.fit(kind.two_category(logits[0]), counts)


def from_layer(
    layer: Callable[..., Tensor],
    name: str = "mine",
    kinds: Sequence[str] = ("categorical",),
    discrete: bool = True,
    law: str = "tf",
) -> LayerEstimator:
    """An estimator made of any autograd function from logits to codes.

    Its estimate is the derivative of the loss at the codes, pulled back through the layer by automatic differentiation.
    Its random calls (rand, randn, exponential_, multinomial, bernoulli, dropout, the samplers of torch.distributions)
    are answered from gradlab's noise: it shares draws with the catalogue, its figures do not depend on chunks, and
    torch's random state is left alone.

    Parameters
    ----------
    layer : layer(logits), layer(logits, tf, tb), or with arguments called tf, tb, tau or temperature (the last two are
        given tb): logits (row, latent, category) -> codes of that shape; binary: (row, latent). Rows are draws and
        examples, each treated as if it were alone. A layer for (row, category) alone is called with a row for each
        latent. A module keeps its mode, weights and buffers; an autograd.Function is taken as it is
    name : what results and messages call it
    kinds : of "categorical" and "binary", the latents it is for
    discrete : whether its values are codes, up to rounding; False for relaxed ones
    law : what its codes follow: "tf" softmax(l/tf), or "model" softmax(l), whatever tf. With "model" the exact gradient
        is that of softmax(l). A few thousand draws check the statement

    Returns
    -------
    LayerEstimator, at tf = tb = 1.

    Raises
    ------
    ValueError
        Arguments that cannot be given, an unknown kind or law. When it is used: a layer whose codes have another
        shape, are not finite or have no gradient, a random call that is not known, rows that depend on each other, a
        law other than stated.

    Examples
    --------
    >>> hard = lambda logits, tau: torch.nn.functional.gumbel_softmax(logits, tau=tau, hard=True)
    >>> est = gradlab.estimators.from_layer(hard, name="torch", law="model")
    >>> model, x = gradlab.bundled("vae-8x4-mnist"), gradlab.datasets.load("mnist-sample").first(2).floats()
    >>> ds = gradlab.bias(model, x, tf=1.0, tb=0.5, estimator=[est, "st-gs:convention=jang"], draws=64)
    >>> abs(ds.mean_gradient[0] - ds.mean_gradient[1]).max().item() < 1e-3
    True
    """
    if not callable(layer):
        raise ValueError(f"layer: expected a function of logits, got a {type(layer).__name__}")
    if not isinstance(name, str) or not name:
        raise ValueError(f"name: expected a text, got {name!r}")
    known = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    if not known or not set(known) <= KINDS.keys():
        raise ValueError(f"kinds: expected some of {', '.join(KINDS)}, got {kinds!r}")
    if law not in LAWS:
        raise ValueError(f"law: expected one of {', '.join(LAWS)}, got {law!r}")
    return estimator_class(Layer(name, Arguments(layer), bool(discrete), law), known, bool(discrete), law)()


def estimator_class(
    layer: Layer, kinds: tuple[str, ...], discrete: bool, law: str, trusted: bool = False
) -> type[LayerEstimator]:
    """The class of a layer's estimator; `trusted`: its law is not checked."""
    body: dict[str, Any] = {
        "__doc__": f"The layer {layer.name}.",
        "__module__": __name__,
        "name": layer.name,
        "kinds": kinds,
        "law": law,
        "layer": dataclasses.replace(layer, discrete=discrete, law=law),
        "trials": {},
        "lawful": None if trusted else set(),
        # stated again: what they rest on is this class's own
        "shared_points": LayerEstimator.shared_points,
        "noise_arrays": LayerEstimator.noise_arrays,
        "uses": LayerEstimator.uses,
    }
    cls: Any = type("".join(c if c.isalnum() else "_" for c in f"Layer_{layer.name}"), (LayerEstimator,), body)
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)
