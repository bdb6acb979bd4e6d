"""Moments of J(q) v over the noise of one latent, given its code: the Gumbel family without the decoder.

Given z_l = k, with p = softmax(l/tf), p_l = p and independent Exp(1) numbers t and E_j (conditional Gumbels),

    exp(g_j) = 1/(E_j + p_j t),  E_k = 0;   q = X/sum X,  X_j = exp(l_j/tb) exp(g_j)^power,

power = 1 in the paper's convention, 1/tb in Jang's. J ignores a constant in v, so v' = v - v_k replaces v; all terms
below are then small if q is nearly one-hot at k. With M = E[v' v'^T | z_l = k], the moments of (J v)_j =
q_j (v'_j - q.v') need

    E[q_j q_a]   and   s_j = E[q_j^2 (M_jj - 2 (M q)_j + q.M q)].

Given t, the X are independent, and (sum X)^-m = 1/Gamma(m) int_0^inf s^(m-1) exp(-s sum X) ds separates the sum:

    E[prod_i q_i^a_i] = 1/Gamma(m) int dt e^-t int ds/s prod_i psi_i(a_i),   psi_i(a) = E[(s X_i)^a exp(-s X_i) | t].

For any number of categories, integrals over s, t and one E_i remain. They use the trapezoidal rule in log s, log t and
log E. The integrands are analytic, so the error falls like exp(-pi^2/h): by a factor of 69 from the first step to the
second, and faster afterwards. Each step also extends the ranges. The difference of the last two results estimates the
error.

Ranges begin at exp(-depth). Noise below has a probability of that size. If all latents are almost certain, the moments
themselves can be equally small. Then the depth grows until the rest no longer matters, or the depth exceeds the gaps of
the logits.

With two categories, q depends on E/t = exp(n) only, where n is logistic: one integral is enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics import MEMORY

STEPS = (1.0, 0.7, 0.5, 0.35)  # of the trapezoidal rule, taken until the tolerance is met
DEPTH = 10.0  # of the first step: ranges begin at exp(-DEPTH), where the integrand has about that size
BLOCK = 2**17  # numbers of an array that fits a CPU's cache
ON_GPU = 2**22  # numbers that keep a GPU busy
_UNDERFLOW = 700.0  # exp(-700) counts as 0
_BYTES = 2**9  # of all arrays, for each number of a block


@dataclass(frozen=True)
class Conditional:
    """Moments of the decoder's derivative at one tf, float64."""

    log_p: Tensor  # (example, latent, category)
    v: Tensor  # E[v - v_k | z_l = k]: (example, latent, k, category)
    vv: Tensor  # E[(v - v_k)(v - v_k)^T | z_l = k]: (example, latent, k, category, category)


@dataclass(frozen=True)
class Relaxed:
    """The estimate 1/draws sum_i (1/tb) J(q_i) v, whose noise arrays are independent given the code."""

    tf: float
    tb: float
    power: float
    draws: int = 1


@dataclass(frozen=True)
class Integral:
    """Mean and variance (example, latent, category); error relative to the norms of mean and standard deviation.

    On request also `jacobian`, E[J(q) | z_l = k] (example, latent, k, category, category), and `covariance`, over the
    categories of a latent (example, latent, category, category).
    """

    mean: Tensor
    variance: Tensor
    error: float
    jacobian: Tensor | None = None
    covariance: Tensor | None = None


def integrate(
    law: Relaxed,
    given: Conditional,
    logits: Tensor,
    tolerance: float,
    memory: int = MEMORY,
    covariance: bool = False,
) -> Integral:
    """The Integral at float64 logits (example, latent, category)."""
    two, beyond = logits.shape[-1] == 2, reach(law, given, logits)
    before: tuple[Tensor, Tensor] | None = None
    extra, error = 0.0, math.inf
    for h in STEPS:
        while True:
            if two:
                found = one_integral(law, given, logits, h, beyond)
            else:
                found = three_integrals(law, given, logits, h, memory, extra)
            mean, variance = combine(law, given, *found)
            left_out = 0.0 if two else neglected(law, given, mean, variance, DEPTH / h + extra)
            if left_out <= tolerance / 10 or extra >= beyond:
                break
            extra = min(beyond, extra + max(5.0, math.log(left_out / tolerance * 100)))
        if before is not None:
            # one of the two errors may be small by chance, so the larger one counts for both
            error = max(relative(mean, before[0]), relative(variance.sqrt(), before[1].sqrt()))
            error = max(error, left_out if extra < beyond else 0.0)
            if error <= tolerance:
                break
        before = mean, variance
    if not covariance:
        return Integral(mean, variance, error)
    if two:  # (J v)_0 = -(J v)_1
        qq, s = found
        second = torch.stack([torch.stack([s[..., 0], -s[..., 0]], -1), torch.stack([-s[..., 1], s[..., 1]], -1)], -1)
    else:
        qq, second = three_integrals(law, given, logits, h, memory, extra, whole=True)
    j = mean_jacobian(qq)
    return Integral(mean, variance, error, j, covariance_within(law, given, j, second))


def reach(law: Relaxed, given: Conditional, logits: Tensor) -> float:
    """Largest |log E| at which the order of the X can change, from the gaps between logits of possible categories."""
    gaps = (logits - logits.amax(-1, keepdim=True)).abs()
    log_p = given.log_p.abs()
    possible = log_p < _UNDERFLOW
    gaps, log_p = (torch.where(possible, a, 0.0) for a in (gaps, log_p))
    return min(_UNDERFLOW, float((gaps / law.tb / law.power + log_p).max()))


def neglected(law: Relaxed, given: Conditional, mean: Tensor, variance: Tensor, depth: float) -> float:
    """Bound on the share of noise below exp(-depth) in mean and standard deviation, relative to their norms."""
    p, categories = given.log_p.exp()[..., None], given.log_p.shape[-1]
    of_mean = (p * given.v.abs()).sum((-1, -2)).norm() / law.tb
    of_square = (p[..., None] * given.vv.abs()).sum() / law.tb**2
    share = 2 * categories * math.exp(-depth)  # of E or of t
    parts = [(float(of_mean), float(mean.norm())), (float(of_square), float(variance.sum()))]
    return max((share * most / size if size else math.inf if most else 0.0) for most, size in parts)


def relative(fine: Tensor, coarse: Tensor) -> float:
    scale = float(fine.norm())
    return float((fine - coarse).norm()) / scale if scale else 0.0


def combine(law: Relaxed, given: Conditional, qq: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance from E[q q^T] off the diagonal (example, latent, k, j, a) and s (example, latent, k, j)."""
    # (J v)_j = sum_a q_j q_a (v_j - v_a)
    m = (qq * (given.v[..., :, None] - given.v[..., None, :])).sum(-1) / law.tb
    s = s.clamp(min=0.0) / law.tb**2
    if law.draws > 1:  # two draws share v only: E[(J v)_j (J' v)_j] = (E[J] M E[J]^T)_jj
        j = mean_jacobian(qq)
        s = s / law.draws + (1 - 1 / law.draws) * ((j @ given.vv) * j).sum(-1) / law.tb**2
    p = given.log_p.exp()[..., None]
    mean = (p * m).sum(-2)
    within, between = (s - m.square()).clamp(min=0.0), (m - mean[..., None, :]).square()
    return mean, (p * (within + between)).sum(-2)


def mean_jacobian(qq: Tensor) -> Tensor:
    """E[J(q)], from E[q q^T] off the diagonal: its rows sum to 0."""
    j = -qq
    j.diagonal(dim1=-2, dim2=-1).zero_()
    j.diagonal(dim1=-2, dim2=-1).copy_(-j.sum(-1))
    return j


def covariance_within(law: Relaxed, given: Conditional, j: Tensor, second: Tensor) -> Tensor:
    """Covariance (example, latent, j, i) from E[J] and E[(J v)(J v)^T] given k; `combine` gives its diagonal."""
    m = (j @ given.v[..., None])[..., 0] / law.tb
    second = second / law.tb**2
    if law.draws > 1:
        second = second / law.draws + (1 - 1 / law.draws) * (j @ given.vv @ j.mT) / law.tb**2
    p = given.log_p.exp()[..., None]
    off = m - (p * m).sum(-2, keepdim=True)

    def outer(a: Tensor) -> Tensor:
        return a[..., :, None] * a[..., None, :]

    return (p[..., None] * (second - outer(m) + outer(off))).sum(-3)


def three_integrals(
    law: Relaxed,
    given: Conditional,
    logits: Tensor,
    h: float,
    memory: int = MEMORY,
    extra: float = 0.0,
    whole: bool = False,
) -> tuple[Tensor, Tensor]:
    """E[q q^T] off the diagonal (example, latent, k, j, a), and s (example, latent, k, j), given k.

    With `whole`, the second result is E[(J v)(J v)^T] (example, latent, k, j, i), whose diagonal is s.
    """
    depth = min(DEPTH / h + extra, 300 / law.power)  # a larger depth overflows X^2
    sharp = max(1.0, law.power)  # E^-power varies that much faster than E, and X reaches that much further
    e = torch.arange(-depth, 3.8, h / sharp, dtype=logits.dtype, device=logits.device).exp()
    s = torch.arange(-depth * sharp, 2.8 * (1 + law.power), h, dtype=logits.dtype, device=logits.device).exp()
    weight_e = e * torch.exp(-e) * (h / sharp)
    log_p, log_w = given.log_p.flatten(0, 1), (logits / law.tb).flatten(0, 1)
    log_w = log_w - log_w.amax(-1, keepdim=True)
    vv = given.vv.flatten(0, 1)
    qq, second = torch.zeros_like(vv), torch.zeros_like(vv if whole else vv[..., 0])
    block = BLOCK if logits.device.type == "cpu" else max(BLOCK, min(ON_GPU, memory // _BYTES))
    lines = max(1, 8 * block // (logits.shape[-1] ** 2 * len(s)))  # pairs of a latent and t at a time
    for some in torch.arange(len(log_p), device=logits.device).split(max(1, lines // len(e))):
        for at in torch.arange(len(e), device=logits.device).split(lines):
            psi = transforms(log_p[some], log_w[some], law.power, e[at], e, weight_e, s, block)
            y = given_k(log_p[some], log_w[some], law.power, e[at], s)
            more = moments_of_ratios(psi, y, vv[some], h * weight_e[at], whole)
            qq[some] += more[0]
            second[some] += more[1]
    return qq.reshape(given.vv.shape), second.reshape(given.vv.shape if whole else given.v.shape)


def transforms(
    log_p: Tensor, log_w: Tensor, power: float, t: Tensor, e: Tensor, weight: Tensor, s: Tensor, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    """psi(0), psi(1), psi(2), each (latent, category, t, s), from nodes e of E and their weights."""
    shape = (*log_p.shape, len(t), len(s))
    x = torch.exp(log_w[..., None, None] - power * torch.log(log_p.exp()[..., None, None] * t[:, None] + e))
    x = x.flatten(0, 2)  # (latent and category and t, E)
    found = []
    for lines in x.split(max(1, block // (len(e) * len(s)))):
        kernel = torch.exp(-s[:, None] * lines[:, None, :])
        columns = torch.stack([weight.expand_as(lines), weight * lines, weight * lines.square()], -1)
        found.append(torch.bmm(kernel, columns))
    psi0, psi1, psi2 = (psi.reshape(shape) for psi in torch.cat(found).unbind(-1))
    return psi0, s * psi1, s.square() * psi2


def given_k(log_p: Tensor, log_w: Tensor, power: float, t: Tensor, s: Tensor) -> Tensor:
    """s X_k (latent, k, t, s); beyond 1000 exp(-s X_k) is 0."""
    log_x = (log_w - power * log_p)[..., None] - power * t.log()
    return torch.exp((log_x[..., None] + s.log()).clamp(max=math.log(1000.0)))


def moments_of_ratios(
    psi: tuple[Tensor, Tensor, Tensor], y: Tensor, vv: Tensor, weight: Tensor, whole: bool = False
) -> tuple[Tensor, Tensor]:
    """E[q_j q_a] off the diagonal (latent, k, j, a), and s (latent, k, j).

    `weight` is that of each t and includes the steps. With `whole`, the second result is E[(J v)(J v)^T]
    (latent, k, j, i).
    """
    latent, k = y.shape[:2]
    tiny = torch.finfo(y.dtype).tiny
    positive = psi[0].clamp(min=tiny)

    def with_k(others: Tensor, own: Tensor) -> Tensor:
        """(latent, k, category, t and s): `own` at category k."""
        spread = others[:, None].repeat(1, k, 1, 1, 1)
        spread.diagonal(dim1=1, dim2=2).copy_(own.permute(0, 2, 3, 1))
        return spread.flatten(3)

    omega = with_k(psi[0], torch.exp(-y)).prod(2) * weight[:, None].expand(y.shape[2:]).flatten()
    r1 = with_k(psi[1] / positive, y).flatten(0, 1)  # (latent and k, category, t and s)
    r2 = with_k(psi[2] / positive, y.square()).flatten(0, 1)
    vv, omega = vv.flatten(0, 1), omega.flatten(0, 1)[:, None]
    qq = torch.bmm(r1 * omega, r1.mT)
    # sum over a, b of (M_jj - M_ja - M_jb + M_ab) E[X_a X_b], where a = b has psi(2)/psi(0)
    own = vv.diagonal(dim1=1, dim2=2)
    total, slope = r1.sum(1, keepdim=True), torch.bmm(vv, r1)
    square = own[:, :, None] * total.square() - 2 * total * slope + (r1 * slope).sum(1, keepdim=True)
    square += torch.bmm(own[:, :, None] - 2 * vv + own[:, None, :], r2 - r1.square())
    second = (square * r2 * omega).sum(-1) / 6  # Gamma(4)
    if whole:
        second = torch.diag_embed(second) + off_diagonal(r1, r2, vv, omega)
        return qq.reshape(latent, k, k, k), second.reshape(latent, k, k, k)
    return qq.reshape(latent, k, k, k), second.reshape(latent, k, k)


def off_diagonal(r1: Tensor, r2: Tensor, vv: Tensor, omega: Tensor) -> Tensor:
    """E[(J v)_j (J v)_i], j != i, from r_m = E[X^m] of each category (row, category, node), M (row, j, i).

    (J v)_j = X_j A_j / S^2 with S = sum X, A_j = sum_a X_a (v_j - v_a). Let A'_j leave out j and i, and d = v_j - v_i:

        X_j X_i A_j A_i = X_j X_i (d X_i + A'_j)(-d X_j + A'_i),

    The factors are independent, except A'_j and A'_i. Products of two v are entries of M.
    """
    found = torch.zeros_like(vv)
    own = vv.diagonal(dim1=1, dim2=2)  # M_aa
    total, slope = r1.sum(1), torch.bmm(vv, r1)
    square = (r1 * slope).sum(1)
    spread = r2 - r1.square()
    categories = vv.shape[-1]
    for j in range(categories):
        for i in range(j):
            m_jj, m_ii, m_ji = (m[:, None] for m in (vv[:, j, j], vv[:, i, i], vv[:, j, i]))
            x_j, x_i = r1[:, j], r1[:, i]
            rest = total - x_j - x_i
            of_j = slope[:, j] - m_jj * x_j - m_ji * x_i  # sum of r_a M_ja over the others
            of_i = slope[:, i] - m_ji * x_j - m_ii * x_i
            both = square - 2 * (x_j * slope[:, j] + x_i * slope[:, i])
            both = both + x_j.square() * m_jj + x_i.square() * m_ii + 2 * x_j * x_i * m_ji
            d_a_i = rest * (m_ji - m_ii) - of_j + of_i
            d_a_j = rest * (m_jj - m_ji) - of_j + of_i
            a_a = rest.square() * m_ji - rest * (of_j + of_i) + both
            others = vv[:, j, i, None] - vv[:, j] - vv[:, i] + own  # 0 at j and i
            a_a = a_a + (others[:, :, None] * spread).sum(1)
            products = -(m_jj - 2 * m_ji + m_ii) * r2[:, j] * r2[:, i]
            products = products + x_j * r2[:, i] * d_a_i - r2[:, j] * x_i * d_a_j + x_j * x_i * a_a
            found[:, j, i] = found[:, i, j] = (products * omega[:, 0]).sum(-1) / 6  # Gamma(4)
    return found


def one_integral(
    law: Relaxed, given: Conditional, logits: Tensor, h: float, beyond: float = 0.0
) -> tuple[Tensor, Tensor]:
    """`three_integrals` for two categories, by one integral.

    q_k = 1 - sigmoid(log X_j/X_k) has poles at Im n = pi/power, so the error is exp(-2 pi^2/h).
    """
    h = h / max(1.0, law.power)
    n = torch.arange(-60.0 - beyond, 40.0 + beyond, h, dtype=logits.dtype, device=logits.device)
    density = torch.sigmoid(n) * torch.sigmoid(-n) * h
    log_w = logits / law.tb
    # (example, latent, k): the other category is 1 - k
    difference = (log_w.flip(-1) - log_w + law.power * given.log_p)[..., None]
    rows = difference - law.power * torch.log(given.log_p.flip(-1).exp()[..., None] + n.exp())
    product = torch.sigmoid(rows) * torch.sigmoid(-rows)
    qq = (product @ density)[..., None, None].expand_as(given.vv)
    own = given.vv.diagonal(dim1=-2, dim2=-1).sum(-1) - 2 * given.vv[..., 0, 1]  # E[(v_0 - v_1)^2]
    second = (product.square() @ density * own)[..., None].expand_as(given.v)
    return qq, second
