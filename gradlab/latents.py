"""The code space: the two kinds of latent, their noise, their Jacobians, and the enumeration of configurations.

Categorical latents have logits `(..., latent, category)`; binary latents have one logit per unit, `(..., latent)`,
and are the categorical pair with logits (l, 0). Everything below broadcasts over leading dimensions.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

# The logit of a category that a latent does not have, where others have it. exp(PADDING/t) is exactly 0 in float64,
# whose least number is exp(-745), up to t = 1e5, beside other logits above -2e7; and float32 holds PADDING/t and sums
# of it down to t = 1e-29. Infinity would do for probabilities, but 0 times its logarithm is no number.
PADDING = -1e8


class LatentKind(ABC):
    """What an estimator has to know of a latent: how logits and noise become codes, and J(q)."""

    name: str
    event_dims: int  # trailing dimensions that belong to one latent: 1 for (category,), 0 for one logit

    exponentials: int  # Exp(1) numbers that one number of noise is made of

    def noise(
        self,
        shape: tuple[int, ...],
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Standard noise g, such that hard(l + g) has the law with logits l."""
        e = torch.empty((self.exponentials, *shape), dtype=dtype, device=device)
        return self.noise_from(e.exponential_(generator=generator))

    @abstractmethod
    def noise_from(self, e: Tensor) -> Tensor:
        """Standard noise (*shape) from Exp(1) numbers e (exponentials, *shape), which are overwritten."""

    @abstractmethod
    def hard(self, a: Tensor) -> Tensor:
        """The discrete code at perturbed logits a."""

    @abstractmethod
    def soft(self, a: Tensor) -> Tensor:
        """The relaxed code at perturbed logits a; at plain logits, the probabilities."""

    @abstractmethod
    def score(self, a: Tensor, code: Tensor) -> Tensor:
        """code - soft(a), to full relative precision also where the code is all but certain."""

    @abstractmethod
    def centred(self, v: Tensor, a: Tensor) -> Tensor:
        """v less its value at the largest of a, which J takes no notice of: then J(q) v does not cancel as q -> onehot.

        q (v - q.v) is 0 but for rounding where q is nearly one-hot and v is the same everywhere.
        """

    @abstractmethod
    def jacobian(self, a: Tensor) -> Tensor:
        """What `pull` needs of J(q) at q = soft(a), to full relative precision."""

    @abstractmethod
    def jacobian_of(self, q: Tensor) -> Tensor:
        """The same of q itself: binary units lose 1 - q where it is below rounding."""

    @abstractmethod
    def pull(self, jacobian: Tensor, v: Tensor) -> Tensor:
        """J v, v being `centred`."""

    @abstractmethod
    def pull_into(self, out: Tensor, jacobian: Tensor, v: Tensor) -> Tensor:
        """J v in `out`, all (..., category or 1, batch, cell): far faster with categories not last."""

    def pullback(self, q: Tensor, v: Tensor) -> Tensor:
        """J(q) v with J(q) = diag(q) - q q^T, per latent."""
        return self.pull(self.jacobian_of(q), self.centred(v, q))

    def pullback_at(self, a: Tensor, v: Tensor) -> Tensor:
        """J(soft(a)) v, to full relative precision also where soft(a) is all but one-hot."""
        return self.pull(self.jacobian(a), self.centred(v, a))

    @abstractmethod
    def indices(self, a: Tensor) -> Tensor:
        """`category_indices` of hard(a), without the code."""

    @abstractmethod
    def kl_to_uniform(self, logits: Tensor) -> Tensor:
        """KL(softmax(l) || uniform) in nats, summed over latents: `(..., )` without latent dimensions."""

    @abstractmethod
    def two_category(self, logits: Tensor) -> Tensor:
        """Logits of the same law as `(..., latent, category)`."""


class Categorical(LatentKind):
    name = "categorical"
    event_dims = 1
    exponentials = 1

    def noise_from(self, e):
        return _log(e)[0].neg_()  # Gumbel(0,1) = -log E

    def hard(self, a):
        return torch.zeros_like(a).scatter_(-1, a.argmax(-1, keepdim=True), 1.0)

    def soft(self, a):
        return torch.softmax(a, -1)

    def score(self, a, code):
        p, most = self.soft(a), self.hard(a)
        others = p * (1 - most)
        return (code - most).add_(torch.where(most > 0, others.sum(-1, keepdim=True), -others))

    def centred(self, v, a):
        _, at = torch.broadcast_tensors(v[..., :1], a.argmax(-1, keepdim=True))
        return v - v.expand(*at.shape[:-1], -1).gather(-1, at)

    def jacobian(self, a):
        return self.soft(a)

    def jacobian_of(self, q):
        return q

    def pull(self, jacobian, v):
        return jacobian * (v - (jacobian * v).sum(-1, keepdim=True))

    def pull_into(self, out, jacobian, v):
        torch.mul(jacobian, v, out=out)
        return out.addcmul_(jacobian, out.sum(-3, keepdim=True), value=-1)

    def indices(self, a):
        return a.argmax(-1)

    def kl_to_uniform(self, logits):
        # bounded, since an impossible category adds 0 log 0 = 0
        log_p = torch.log_softmax(logits, -1).clamp(min=torch.finfo(logits.dtype).min)
        categories = (logits > PADDING / 2).sum(-1).to(logits.dtype)  # of each latent its own
        return (log_p.exp() * log_p).sum((-2, -1)) + categories.log().sum(-1)

    def two_category(self, logits):
        return logits


class Binary(LatentKind):
    name = "binary"
    event_dims = 0
    exponentials = 2

    def noise_from(self, e):
        _log(e)
        return e[1] - e[0]  # logistic: the difference of two Gumbels

    def hard(self, a):
        return (a > 0).to(a.dtype)

    def soft(self, a):
        return torch.sigmoid(a)

    def score(self, a, code):
        return torch.where(code > 0.5, torch.sigmoid(-a), -torch.sigmoid(a))

    def centred(self, v, a):
        return v  # of the pair (v, 0) only the difference matters

    def jacobian(self, a):
        return torch.sigmoid(a) * torch.sigmoid(-a)

    def jacobian_of(self, q):
        return q * (1 - q)

    def pull(self, jacobian, v):
        return jacobian * v

    def pull_into(self, out, jacobian, v):
        return torch.mul(jacobian, v, out=out)

    def indices(self, a):
        return (a <= 0).long()

    def kl_to_uniform(self, logits):
        return CATEGORICAL.kl_to_uniform(self.two_category(logits))

    def two_category(self, logits):
        return torch.stack([logits, torch.zeros_like(logits)], -1)


def _log(e: Tensor) -> Tensor:
    return e.clamp_(min=torch.finfo(e.dtype).tiny).log_()  # the smallest normal number keeps the log finite


CATEGORICAL = Categorical()
BINARY = Binary()


def bounded(kind: LatentKind, logits: Tensor) -> Tensor:
    """Logits of the same law, in which impossible categories, -inf or any large mask, are all alike and finite.

    A binary unit may be certain, +-inf. Other infinities and NaN stay.

    Examples
    --------
    >>> logits = torch.tensor([0.0, 1.0, -torch.inf])
    >>> gradlab.latents.bounded(gradlab.latents.Categorical(), logits).isfinite().all().item()
    True
    """
    low = _lowest(logits)
    if kind is BINARY:
        return logits.clamp(low, -low)
    floor = logits.amax(-1, keepdim=True) + low
    return torch.where((logits < floor) & floor.isfinite(), floor, logits)


def masked(kind: LatentKind, logits: Tensor) -> Tensor:
    """Where a category is impossible, or a binary unit certain, by a mask in the logits.

    Examples
    --------
    >>> logits = torch.tensor([0.0, 1.0, -torch.inf])
    >>> gradlab.latents.masked(gradlab.latents.Categorical(), logits).tolist()
    [False, False, True]
    """
    half = _lowest(logits) / 2
    if kind is BINARY:
        return logits.abs() >= -half
    return logits <= logits.amax(-1, keepdim=True) + half


def _lowest(logits: Tensor) -> float:
    """PADDING; of half precision -1023, which may be divided by a temperature of 0.02."""
    return max(PADDING, torch.finfo(logits.dtype).min / 64)


def configurations(
    latents: int,
    categories: int | Sequence[int],
    start: int,
    stop: int,
    device: torch.device | str | None = None,
) -> Tensor:
    """Category indices `(configuration, latent)` of configurations start .. stop-1; the last latent turns fastest.

    `categories` is one number, or one for each latent.

    Examples
    --------
    >>> gradlab.latents.configurations(2, 3, 0, 4).tolist()
    [[0, 0], [0, 1], [0, 2], [1, 0]]
    """
    index = torch.arange(start, stop, device=device)
    counts = [categories] * latents if isinstance(categories, int) else categories
    return torch.stack([(index // s) % n for s, n in zip(strides(counts), counts, strict=True)], -1)


def counts_of_categories(categories: Sequence[int], numbers: range) -> list[list[int]]:
    """Of each latent, how many of consecutive configurations have each category.

    Examples
    --------
    >>> gradlab.latents.counts_of_categories([2, 3], range(4))
    [[3, 1], [2, 1, 1]]
    """

    def before(end: int, stride: int, n: int, k: int) -> int:
        rounds, rest = divmod(end, stride * n)
        return rounds * stride + min(max(rest - k * stride, 0), stride)

    return [
        [before(numbers.stop, s, n, k) - before(numbers.start, s, n, k) for k in range(n)]
        for s, n in zip(strides(categories), categories, strict=True)
    ]


def strides(categories: Sequence[int]) -> list[int]:
    """By how many configurations each latent's next category is further on, from the number of categories of each.

    Examples
    --------
    >>> gradlab.latents.strides([2, 3, 4])
    [12, 4, 1]
    """
    return [math.prod(categories[i + 1 :]) for i in range(len(categories))]


def codes_at(indices: Tensor, categories: int, binary: bool, dtype: torch.dtype) -> Tensor:
    """Codes of category indices `(..., latent)`: one-hot `(..., latent, category)`, or units `(..., latent)`.

    A binary unit of category index 0 is on: the pair of logits is (l, 0).

    Examples
    --------
    >>> gradlab.latents.codes_at(torch.tensor([[2, 0]]), 3, binary=False, dtype=torch.float32).tolist()
    [[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]
    """
    if binary:
        return (indices == 0).to(dtype)
    return torch.nn.functional.one_hot(indices, categories).to(dtype)


def category_indices(kind: LatentKind, codes: Tensor) -> Tensor:
    """The inverse of `codes_at` on discrete codes.

    Examples
    --------
    >>> codes = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    >>> gradlab.latents.category_indices(gradlab.latents.Categorical(), codes).tolist()
    [2, 0]
    """
    return (codes < 0.5).long() if kind is BINARY else codes.argmax(-1)


def derived_seed(seed: int, *path: int | str) -> int:
    """A 63-bit seed for one place of a computation, in any order.

    A GPU's generator uses all of it. torch's CPU generator keeps the low 32 bits, so that two places get the same noise
    with probability 2^-32. Of n draws n²/2^33 pairs are expected to share theirs: 1.2e-4 of 1,024, 2 of 131,072, which
    widen the true interval by 2 parts in 131,072.

    Examples
    --------
    >>> gradlab.latents.derived_seed(0, "noise", 3) != gradlab.latents.derived_seed(0, "noise", 4)
    True
    """
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator_seed(seed: int) -> int:
    """A seed of torch's CPU generator, which keeps 32 bits: as it is where it has no more, else derived from all.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(gradlab.latents.generator_seed(2**40))
    """
    return seed if seed < 2**32 else derived_seed(seed)
