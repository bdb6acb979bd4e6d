"""k-hot codes: each latent takes k of its K categories, without order: top-k, a mixture of experts with k > 1.

    a = l/tf,   S = the k largest entries of a + g,   g ~ Gumbel(0, 1)

This is drawing k times from softmax(a) without replacement (Plackett-Luce), of which only the set S is known. With
R(T) = log sum exp a over the categories outside of T, the probability f(T) that the first |T| choices are T is

    f({}) = 1,   f(T) = sum_{i in T} f(T - i) exp(a_i - R(T - i)),   p(S) = f(S):

2^k sets in place of the k! orders of S, in log space. With b(T) the same from T to S, and
w(T, i) = f(T) exp(a_i - R(T)) b(T + i) / p(S) the probability that i in S is chosen next after T, given S,

    d log p(S) / da_m = sum_{T < S} sum_{i in S - T} w(T, i) (1[i = m] - exp(a_m - R(T)) 1[m not in T]).

For k = 1 all this is the categorical latent. References: Plackett 1975; Kool, van Hoof, Welling 2019 (Gumbel top-k);
Xie, Ermon 2019 (the relaxation).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from . import errors
from .latents import CATEGORICAL, LatentKind, below, bounded, masked

MOST_CHOSEN = 8  # k: 2^k sets for each code
MOST_CODES = 2**14  # of one latent, where all its codes are enumerated
_LEAST, _MOST = 2**20, 2**22  # numbers of an array of sets, of which some four exist at a time


def _refused(*_: object) -> NoReturn:
    raise ValueError(
        "latents: expected categorical or binary ones, got k-hot ones, whose codes have no softmax Jacobian; take rloo,"
        " st-gs or ste"
    )


@dataclass(frozen=True)
class KHot(LatentKind):
    """k of the categories of each latent. Codes are k-hot `(..., latent, category)`, numbered in the order of sets.

    Examples
    --------
    >>> kind = gradlab.k_hot.KHot(2)
    >>> kind.hard(torch.tensor([0.3, 2.0, -1.0, 1.0])).tolist()
    [0.0, 1.0, 0.0, 1.0]
    """

    k: int

    name = "k-hot"
    event_dims = 1
    exponentials = 1
    one_hot = False

    def __post_init__(self):
        errors.whole_number("top_k", self.k, 1)
        if self.k > MOST_CHOSEN:
            raise ValueError(
                f"top_k: expected at most {MOST_CHOSEN}, since the probability of a set is a sum over its subsets, got"
                f" {self.k}"
            )

    def check(self, logits):
        """ValueError for latents with fewer possible categories than k, or more than 2^14 sets."""
        self._check_size(logits.shape[-1])
        possible = (~masked(self, logits)).sum(-1)
        few = (possible < self.k) & logits.amax(-1).isfinite()  # others are no logits at all, as the caller says
        if bool(few.any()):
            raise ValueError(
                f"logits: expected at least top_k = {self.k} possible categories in each latent, got"
                f" {int(possible[few][0])}"
            )

    # --- codes ---

    def noise_from(self, e):
        return e.clamp_(min=torch.finfo(e.dtype).tiny).log_()[0].neg_()  # Gumbel(0,1), that of a categorical latent

    def hard(self, a):
        return torch.zeros_like(a).scatter_(-1, a.topk(self.k, -1).indices, 1.0)

    def code_count(self, categories):
        return math.comb(categories, self.k)

    def codes(self, indices, categories, dtype):
        """Set number n is the n-th of itertools.combinations(range(categories), k)."""
        code = torch.zeros(*indices.shape, categories, dtype=dtype, device=indices.device)
        left, missing = indices.clone(), torch.full_like(indices, self.k)
        with_it = _binomials(categories, self.k, indices.device)
        for i in range(categories):
            number = with_it[categories - 1 - i][missing]  # of the sets of the rest that contain i
            taken = (left < number) & (missing > 0)
            code[..., i] = taken.to(dtype)
            left = torch.where(taken, left, left - number)
            missing = missing - taken.long()
        return code

    def code_indices(self, codes):
        categories = codes.shape[-1]
        chosen = (codes > 0.5).long()
        missing = self.k - chosen.cumsum(-1) + chosen  # before each category
        number = _binomials(categories, self.k, codes.device)[
            torch.arange(categories - 1, -1, -1, device=codes.device), missing.clamp(0, self.k)
        ]
        return (number * (1 - chosen) * (missing > 0)).sum(-1)

    def indices(self, a):
        return self.code_indices(self.hard(a))

    # --- the law ---

    def log_law(self, logits, t):
        """log p of every code: `(..., latent, code)`; differentiable."""
        a = self._below(logits) / t
        return _by_rows(lambda some: _log_of_all(some, self.k), _numbers(a.shape[-1], self.k), a)

    def law(self, logits, t):
        return self.log_law(logits, t).exp()

    def gradient_of_law(self, logits, t, p, c):
        """(1/t) sum_S p(S) (c_S - mean c) d log p(S)/da, from exact differences of c."""
        a = self._below(logits) / t
        numbers = 2 * _numbers(a.shape[-1], self.k)
        return _by_rows(lambda some, w: _weighted_score(some, w, self.k), numbers, a, CATEGORICAL.pullback(p, c)) / t

    def bound(self, of_codes):
        return math.sqrt(2) * self.k * of_codes.sum(-1)  # a score is a sum of k differences of two laws of a category

    def log_probability(self, a, code):
        """log p(S) of codes `(..., latent, category)`: `(..., latent)`."""
        return self._of_codes(a, code)[..., 0]

    def score(self, a, code):
        """d log p(S)/da, of the shape of the code."""
        if self.k == a.shape[-1]:
            return torch.zeros_like(code + a)
        return self._of_codes(a, code)[..., 1:]

    def _of_codes(self, a: Tensor, code: Tensor) -> Tensor:
        a, code = torch.broadcast_tensors(self._below(a), code)
        numbers = 2**self.k * a.shape[-1]
        return _by_rows(lambda some, of: _log_and_score(some, of, self.k), numbers, a, code)

    def kl_to_uniform(self, logits):
        """KL of the law of sets at softmax(l) to all possible sets alike, in nats, summed over latents.

        NaN where fewer than k categories are possible.
        """
        wide = logits.float() if logits.dtype.itemsize < 4 else logits  # half precision has no logit of probability 0
        few = ((~masked(self, wide)).sum(-1) < self.k).any(-1)
        sets = self.log_law(wide, 1.0)  # the sets are categories, with logits log p(S)
        return (CATEGORICAL.kl_to_uniform(sets) * torch.where(few, torch.nan, 1.0)).to(logits.dtype)

    def pull_chances(self, a: Tensor, v: Tensor) -> Tensor:
        """(dP/da)^T v, P_i being the probability that i is in S: the gradient of E[v . code] for a constant v."""
        return (self._chances(a) * v[..., None]).sum(-2)

    def _chances(self, a: Tensor) -> Tensor:
        """dP_i/da_m `(..., latent, i, m)`, from the difference of each set to the most probable one."""
        every = self.codes(torch.arange(self.code_count(a.shape[-1]), device=a.device), a.shape[-1], a.dtype)

        def of_rows(rows: Tensor) -> Tensor:
            p = _log_of_all(rows, self.k).exp()
            weights = p[..., None] * (every - every[p.argmax(-1)][:, None])  # (row, set, i)
            return torch.stack([_weighted_score(rows, w, self.k) for w in weights.unbind(-1)], 1)

        return _by_rows(of_rows, 2 * _numbers(a.shape[-1], self.k) + every.numel(), self._below(a))

    def _below(self, logits: Tensor) -> Tensor:
        """Logits less the largest of their latent, finite for impossible categories."""
        return below(bounded(self, logits, checked=False))

    def _check_size(self, categories: int) -> None:
        count = self.code_count(categories)
        if count > MOST_CODES:
            raise errors.SpaceTooLarge(
                f"top_k: expected at most {MOST_CODES:,} sets of categories in a latent, got {count:,},"
                f" {self.k} of {categories} categories; take fewer categories, or a smaller top_k"
            )

    # --- the relaxation ---

    def relaxed(self, a: Tensor, t: float | Tensor = 1.0) -> Tensor:
        """y = sum_j y_j with y_j = softmax(a_j), a_1 = a, a_(j+1) = a_j + (1/t) log(1 - y_j) (Xie, Ermon 2019)."""
        found = torch.zeros_like(a)
        for _ in range(self.k):
            found = found + torch.softmax(a, -1)
            a = a + _log_rest(a) / t
        return found

    def pull_relaxed(self, a: Tensor, v: Tensor, t: float | Tensor = 1.0) -> Tensor:
        """(dy/da)^T v of `relaxed`, backwards through its k steps, without a difference that cancels."""
        steps = [a]
        for _ in range(self.k - 1):
            steps.append(steps[-1] + _log_rest(steps[-1]) / t)
        found = torch.zeros_like(v + a)
        for a_j in reversed(steps):
            y, at = torch.softmax(a_j, -1), a_j.argmax(-1, keepdim=True)
            u = v - v.gather(-1, at.expand(*v.shape[:-1], 1))
            through = y * (u - (y * u).sum(-1, keepdim=True))
            if a_j is not steps[-1]:
                through = through + _pull_step(a_j, y, at, found, t)
            found = through
        return found

    # --- of one-hot codes only ---

    refused: ClassVar[Any] = _refused
    soft = centred = jacobian = jacobian_of = pull = pull_into = two_category = pullback = pullback_at = refused


def _log_rest(a: Tensor) -> Tensor:
    """log(1 - softmax(a)), with all digits also of the largest entry."""
    at = a.argmax(-1, keepdim=True)
    total = torch.logsumexp(a, -1, keepdim=True)
    y = torch.exp(a - total).scatter(-1, at, 0.0)  # at most 1/2
    rest = torch.logsumexp(a.scatter(-1, at, -torch.inf), -1, keepdim=True) - total
    return torch.log1p(-y).scatter(-1, at, rest)


def _pull_step(a: Tensor, y: Tensor, at: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
    """(da'/da)^T u of a' = a + log(1 - y)/t, y = softmax(a), `at` its largest entry; u of a function of softmax(a').

    It is u_m + (1/t) sum_{i != m} u_i y_m/(1 - y_i), but for what all entries share. Such u sum to 0: without that of
    the largest entry, minus the sum of the others, nothing cancels where y is almost one-hot and t = 1.
    """
    of_u = at.expand(*u.shape[:-1], 1)
    others, u = y.scatter(-1, at, 0.0), u.scatter(-1, of_u, 0.0)
    share = torch.softmax(a.scatter(-1, at, -torch.inf), -1)  # y_m / (1 - y_at), m != at
    left = _but_one(share, share.argmax(-1, keepdim=True))
    of_largest = (u * (1 / t - 1 - left * others.sum(-1, keepdim=True) / (1 - others) / t)).sum(-1, keepdim=True)
    most = u.abs().argmax(-1, keepdim=True)
    of_others = u * (1 - 1 / t + left / t)
    of_others = of_others + (y * _but_one(u / (1 - others), most) - share * _but_one(u, most)) / t
    return of_others.scatter(-1, of_u, of_largest)


def _but_one(terms: Tensor, most: Tensor) -> Tensor:
    """Of each term the sum of the others: the total less the term, but for `most`, the largest, which is left out."""
    without = terms.scatter(-1, most, 0.0).sum(-1, keepdim=True)
    return (terms.sum(-1, keepdim=True) - terms).scatter(-1, most, without)


@functools.cache
def _binomials(categories: int, k: int, device: torch.device) -> Tensor:
    """(n, m): the number of sets of m - 1 among n categories; 0 for m = 0."""
    rows = [[0, *(math.comb(n, m - 1) for m in range(1, k + 1))] for n in range(categories)]
    return torch.tensor(rows, device=device)


@functools.cache
def _levels(categories: int, k: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For 0 .. k elements: whether a category is in each set, its elements, and the number of the set without each."""
    found = []
    before: dict[tuple[int, ...], int] = {}
    for size in range(k + 1):
        sets = list(itertools.combinations(range(categories), size))
        inside = torch.zeros(len(sets), categories, dtype=torch.bool)
        elements = torch.tensor(sets, dtype=torch.long).reshape(len(sets), size)
        inside.scatter_(1, elements, True)
        without = [[before[one[:i] + one[i + 1 :]] for i in range(size)] for one in sets]
        found.append((inside, elements, torch.tensor(without, dtype=torch.long).reshape(len(sets), size)))
        before = {one: number for number, one in enumerate(sets)}
    return found


def _numbers(categories: int, k: int) -> int:
    """Numbers that `_log_of_all` makes for each latent."""
    return sum(math.comb(categories, size) * (categories + size) for size in range(k + 1))


def _log_of_all(a: Tensor, k: int) -> Tensor:
    """log p (row, set) of all sets of k, from a (row, category)."""
    f = a.new_zeros(len(a), 1)
    if k == a.shape[-1]:
        return f + 0 * a[:, :1]
    largest, rest = _rest(a[:, None])  # of the sets of the level before
    for inside, elements, without in _levels(a.shape[-1], k)[1:]:
        inside, elements, without = (each.to(a.device) for each in (inside, elements, without))
        f = torch.logsumexp(f[:, without] + (a[:, elements] - largest[:, without] - rest[:, without]), -1)
        if elements.shape[1] < k:
            largest, rest = _rest(a[:, None].masked_fill(inside, -torch.inf))
    return f


def _rest(outside: Tensor) -> tuple[Tensor, Tensor]:
    """R = log sum exp as its largest term and the rest, since a sum of the two has lost digits where it is large."""
    largest = outside.amax(-1, keepdim=True)
    return largest[..., 0], torch.logsumexp(outside - largest, -1)


@torch.enable_grad()
def _weighted_score(a: Tensor, weights: Tensor, k: int) -> Tensor:
    """sum_S w(S) d log p(S)/da (row, category). Where w is small, at the most probable S, so is its rounding."""
    leaf = a.detach().clone().requires_grad_()
    return torch.autograd.grad((weights * _log_of_all(leaf, k)).sum(), leaf)[0]


def _log_and_score(a: Tensor, code: Tensor, k: int) -> Tensor:
    """log p(S) and d log p(S)/da of codes (row, category): (row, 1 + category)."""
    at = code.topk(k, -1).indices
    chosen = a.gather(-1, at)  # (row, k)
    member = (torch.arange(2**k)[:, None] >> torch.arange(k) & 1).bool()  # (T, k), T a number of k bits
    of_chosen = torch.nn.functional.one_hot(at, a.shape[-1]).bool()  # (row, k, category)
    taken = (member.to(a.device)[:, :, None] & of_chosen[:, None]).any(2)  # (row, T, category)
    outside = a[:, None].masked_fill(taken, -torch.inf)
    largest, rest = _rest(outside)  # R(T): (row, T)
    step = chosen[:, None] - largest[..., None] - rest[..., None]  # log of the chance of i after T
    never = torch.logsumexp(a[:, None].masked_fill(taken[:, -1:], -torch.inf) - largest[..., None], -1) - rest
    full = 2**k - 1
    forward, backward = {0: torch.zeros_like(rest[:, 0])}, {full: torch.zeros_like(rest[:, 0])}
    missed = {full: torch.full_like(rest[:, 0], -torch.inf)}  # log(1 - exp(backward)), with all digits
    for t in range(1, full + 1):
        before = [(t - 2**i, i) for i in range(k) if t >> i & 1]
        forward[t] = torch.logsumexp(torch.stack([forward[s] + step[:, s, i] for s, i in before], -1), -1)
        s = full - t
        after = [(s + 2**i, i) for i in range(k) if not s >> i & 1]
        backward[s] = torch.logsumexp(torch.stack([backward[r] + step[:, s, i] for r, i in after], -1), -1)
        missed[s] = torch.logsumexp(torch.stack([never[:, s], *(missed[r] + step[:, s, i] for r, i in after)], -1), -1)
    of_rest, of_chosen_ones = torch.zeros_like(a), torch.zeros_like(chosen)
    for t in range(full):
        left = [i for i in range(k) if not t >> i & 1]
        w = {i: (forward[t] + step[:, t, i] + backward[t + 2**i] - forward[full]).exp() for i in left}
        total = torch.stack(list(w.values())).sum(0)
        of_rest -= total[:, None] * (outside[:, t] - largest[:, t, None] - rest[:, t, None]).exp()
        for i in left:  # w_i (1 - y_i) - y_i (the other w) = w_i (chance of none of S) + sum_j (w_i y_j - w_j y_i)
            of_chosen_ones[:, i] += w[i] * never[:, t].exp()
        for i, j in itertools.combinations(left, 2):
            b_i, b_j = backward[t + 2**i], backward[t + 2**j]
            both = (forward[t] + step[:, t, i] + step[:, t, j] - forward[full]).exp()
            likely = torch.minimum(b_i, b_j) > -math.log(2)  # there the two may be equal but for their last digits
            more = torch.where(
                likely,
                torch.where(likely, both, 0.0) * (missed[t + 2**j].exp() - missed[t + 2**i].exp()),
                w[i] * step[:, t, j].exp() - w[j] * step[:, t, i].exp(),
            )
            of_chosen_ones[:, i] += more
            of_chosen_ones[:, j] -= more
    return torch.cat([forward[full][:, None], of_rest.scatter(-1, at, of_chosen_ones)], -1)


def _by_rows(function: Callable[..., Tensor], numbers: int, *tensors: Tensor) -> Tensor:
    """A function of (row, ...) tensors, of leading dims taken together, some rows at a time.

    The caller's tensors fit its working memory, and so do arrays that are no larger than these.
    """
    leading = tensors[0].shape[:-1]
    flat = [each.reshape(-1, each.shape[-1]) for each in tensors]
    step = max(1, min(max(tensors[0].numel(), _LEAST), _MOST) // numbers)
    if len(flat[0]) <= step:
        found = function(*flat)
    else:
        found = torch.cat([function(*some) for some in zip(*(each.split(step) for each in flat), strict=True)])
    return found.reshape(*leading, *found.shape[1:])
