"""The estimator protocol: logits and noise -> points; loss and derivative at the points -> estimate.

An estimator is a frozen record of its parameters and a few pure functions. It never sees a model, so the same
object serves sampling, enumeration, training and tests. Shapes, with `...` any leading dimensions (draws):

    logits      (example, latent, category)                             binary: (example, latent)
    noise       (array, ..., example, latent, category)                 standard Gumbel (binary: logistic) arrays
    points      (evaluation, ..., example, latent, category)            where the loss is wanted
    loss        (evaluation, ..., example)                              f(z, x)
    derivative  (evaluation, ..., example, latent, category)            v = df/dz
    weights     (evaluation, ..., example)                              shares in the loss the decoder is trained on
    estimate    (..., example, latent, category)                        of dE[f]/dlogits, per example

Logits may have the leading dimensions too, those of several models, and temperatures are numbers or tensors that
broadcast with them: (model, 1, 1, 1), binary (model, 1, 1).

Noise array 0 is the one that samples the code, so that all estimators share it (common random numbers).
What a caller has to do, in order: `points` with `noise_arrays` arrays of noise; loss and derivative at them; where
`baseline_decay` is a number, `RunningMean.centre` on the loss; `estimate`. `evaluations_at` tells the cost beforehand.
Where `backward` is not None, a caller may work out scale J(relaxation) v itself in place of `estimate`. `points_of` and
`estimate_of` call an estimator as its own statements say, whatever else is measured beside it.

Statements such as `forward`, `backward`, `unbiased`, `code_only` are promises (see promises): a subclass that overrides
the functions they speak of has to state them again, or makes none.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..latents import LatentKind
from . import parameters, promises


@dataclass(frozen=True, kw_only=True)
class Estimator(ABC):
    """Base of all estimators. `tf` is the temperature of the law that codes are sampled from."""

    tf: float = parameters.temperature(1.0)

    name: ClassVar[str]
    formula: ClassVar[str]
    reference: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ("categorical", "binary")
    unbiased: ClassVar[bool] = False  # for the expected loss under softmax(l/tf)
    uses_loss: ClassVar[bool] = False
    uses_derivative: ClassVar[bool] = True
    discrete_points: ClassVar[bool] = True  # all points are codes, none is relaxed
    noise_free: ClassVar[bool] = False  # every draw gives the same estimate
    all_configurations: ClassVar[bool] = False  # the points are the configurations in their order
    samples_first: ClassVar[bool] = False  # several points, the first of them the one code hard(l/tf + g)
    code_only: ClassVar[bool] = False  # one point, z ~ softmax(l/tf), and the estimate is a function of it alone

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        promises.withdraw(cls)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, allowed = getattr(self, field.name), parameters.allowed(field)
            if field.name == "tb" and value is None:
                value = self.tf
            elif allowed is not None:
                value = allowed.check(field.name, value)
            object.__setattr__(self, field.name, value)

    @property
    def noise_arrays(self) -> int:
        """Noise arrays per draw."""
        return 1

    @property
    def evaluations(self) -> int:
        """Loss evaluations per draw; 0 where they depend on the space, see `evaluations_at`."""
        return 1

    def evaluations_at(self, kind: LatentKind, logits: Tensor) -> int:
        """Loss evaluations per draw at such logits, of which only the shape matters."""
        return self.evaluations

    @property
    def baseline_decay(self) -> float | None:
        """Decay of the running mean that the caller subtracts from the loss (see RunningMean); None: no such mean."""
        return None

    @property
    def forward(self) -> Hashable:
        """Equal for two estimators exactly if, at equal noise, they evaluate the loss at the same points.

        To be stated in the class that has `points` of its own; without, points are shared with no other estimator.
        """
        return ("sample", self.tf)

    @property
    def points_key(self) -> Hashable:
        """What callers tell points apart by: estimators with other functions never share them, whatever they state."""
        return type(self).points, self.forward

    @staticmethod
    def sample_key(tf: float | Tensor) -> Hashable:
        """The points key of estimators whose only point is the code that noise array 0 samples."""
        return Estimator.points, ("sample", tf)

    @property
    def samples(self) -> bool:
        """Whether its only point is the code that noise array 0 samples."""
        return type(self).points is Estimator.points

    def points(self, kind: LatentKind, logits: Tensor, noise: Tensor) -> Tensor:
        """By default one code per draw, z = hard(l/tf + g) ~ softmax(l/tf)."""
        return kind.hard(logits / self.tf + noise[0])[None]

    def weights(self, kind: LatentKind, logits: Tensor, points: Tensor) -> Tensor | None:
        """Share of each evaluation in the expected loss, which is what the decoder is trained on; None: equal shares.

        Where a share is 0 the derivative may still be used: it is df/dz, not that of the weighted loss.
        """
        return None

    @property
    def backward(self) -> Hashable | None:
        """None, or the promise that `estimate` is scale J(q) v(z), z its only point, a code, and q = `relaxation`.

        Equal for two estimators only if, at equal noise, they have equal q; callers then compute q once for all tf.
        """
        return None

    @property
    def relaxation_key(self) -> Hashable | None:
        """None, or what callers tell q of `backward` apart by."""
        own = type(self)
        return None if self.backward is None else (own.jacobian, own.relaxation, self.backward)

    def relaxation(self, kind: LatentKind, logits: Tensor, noise: Tensor) -> Tensor:
        """q of `backward`, which tf must not enter: (..., example, latent, category), or without draws."""
        raise NotImplementedError(f"{self.name} promises no relaxation")

    jacobian = promises.jacobian_of_relaxation

    @property
    def scale(self) -> float:
        """The factor before J(q) v(z) of `backward`."""
        return 1.0

    @abstractmethod
    def estimate(
        self,
        kind: LatentKind,
        logits: Tensor,
        noise: Tensor,
        points: Tensor,
        loss: Tensor | None,
        derivative: Tensor | None,
    ) -> Tensor:
        """The estimate; `loss` and `derivative` are given where `uses_loss` and `uses_derivative` say so."""

    def at(self, tf: float | Tensor, tb: float | Tensor) -> Estimator:
        """The same estimator at other temperatures; tb is ignored by those without a relaxation."""
        fields = {field.name for field in dataclasses.fields(self)}
        own: dict[str, Any] = {k: v for k, v in {"tf": tf, "tb": tb}.items() if k in fields}
        return dataclasses.replace(self, **own)

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters by name, temperatures included."""
        return dataclasses.asdict(self)

    @property
    def label(self) -> str:
        """Name, and parameters that are neither temperatures nor defaults: `st-gs(convention=jang)`."""
        own = [
            f"{f.name}={getattr(self, f.name)}"
            for f in dataclasses.fields(self)
            if f.name not in ("tf", "tb") and getattr(self, f.name) != f.default
        ]
        return f"{self.name}({', '.join(own)})" if own else self.name


@dataclass(frozen=True, kw_only=True)
class Relaxation(Estimator):
    """An estimator with a backward temperature; `tb` defaults to `tf`."""

    tb: float = parameters.temperature(None)


class RunningMean:
    """A baseline from the past: weighted mean of the batch-mean losses of all earlier draws or training steps.

    m_t = decay m_{t-1} + (1 - decay) mean of f_t, divided by 1 - decay^t as in Adam; 0 before the first.
    It knows nothing of the draw it is subtracted from, so that no bias comes in.

    Examples
    --------
    >>> baseline = gradlab.estimators.RunningMean(decay=0.99)
    >>> estimator = gradlab.estimators.get("reinforce", baseline="running-mean")
    >>> logits = torch.zeros(5, 3, 8, requires_grad=True)
    >>> for step in range(3):
    ...     loss = gradlab.estimators.surrogate_loss(estimator, logits, lambda z: z.sum((1, 2)), baseline=baseline)
    >>> loss.tolist()
    [3.0, 3.0, 3.0, 3.0, 3.0]
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.state = torch.zeros(2, dtype=torch.float64)  # m_t and 1 - decay^t: all there is to save and restore

    def centre(self, loss: Tensor) -> Tensor:
        """`loss` (evaluation, ..., example) less, for each draw, the mean of the draws before it; `...` are draws.

        Draw after draw, so that the result does not depend on how they are cut into chunks. Not in place.
        """
        draws = loss.reshape(loss.shape[0], -1, loss.shape[-1])
        m, weight = self.state.tolist()
        before = []
        for mean in draws.double().mean((0, 2)).tolist():
            before.append(m / weight if weight > 0 else 0.0)
            m = self.decay * m + (1 - self.decay) * mean
            weight = self.decay * weight + (1 - self.decay)
        self.state = torch.tensor([m, weight], dtype=torch.float64)
        return (draws - draws.new_tensor(before)[:, None]).reshape(loss.shape)


def centre_step(loss: Tensor, state: Tensor, decay: float) -> Tensor:
    """`RunningMean.centre` of one training step of several models, without waiting for the device.

    `loss` is (evaluation, model, example), `state` (model, 2) float64, which moves on in place.
    """
    m, weight = state.unbind(-1)
    before = torch.where(weight > 0, m / weight, 0.0)
    now = torch.stack([loss.double().mean((0, 2)), torch.ones_like(m)], -1)
    state.mul_(decay).add_((1 - decay) * now)
    return loss - before.to(loss.dtype)[:, None]


def points_of(estimator: Estimator, kind: LatentKind, logits: Tensor, noise: Tensor) -> Tensor:
    """The estimator's points, from no more noise arrays than it states. ValueError if they are not what it states."""
    points = estimator.points(kind, logits, noise[: estimator.noise_arrays])
    wanted = (estimator.evaluations_at(kind, logits), *noise.shape[1:])
    if tuple(points.shape) != wanted:
        raise ValueError(
            f"estimator: {estimator.label}: expected points of shape {wanted}, got {tuple(points.shape)}; `evaluations`"
            " must be their number"
        )
    return points


def estimate_of(
    estimator: Estimator,
    kind: LatentKind,
    logits: Tensor,
    noise: Tensor,
    points: Tensor,
    loss: Tensor,
    derivative: Tensor | None,
) -> Tensor:
    """The estimate from what the estimator says it uses, whatever is at hand. ValueError for another shape."""
    arrays = noise[: estimator.noise_arrays]
    derivative = derivative if estimator.uses_derivative else None
    estimate = estimator.estimate(kind, logits, arrays, points, loss, derivative)
    if estimate.shape != noise.shape[1:]:
        raise ValueError(
            f"estimator: {estimator.label}: expected an estimate of shape {tuple(noise.shape[1:])}, got"
            f" {tuple(estimate.shape)}"
        )
    return estimate


def per_latent(kind: LatentKind, loss: Tensor) -> Tensor:
    """Losses (..., example), to be multiplied with codes (..., example, latent, category)."""
    return loss[(..., *[None] * (1 + kind.event_dims))]
