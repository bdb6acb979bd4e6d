"""The exact gradient of the expected loss, by enumerating the code space (appendix C).

With the target law p and c_{l,k} = E[f | z_l = k]:   g*_{l,k} = (1/tf) p_{l,k} sum_j p_{l,j} (c_{l,k} - c_{l,j}).
This does not cancel, even if a latent is almost certain, because c is computed relative to the most probable category.

The decoder evaluates each configuration once for all images, in blocks of bounded memory. The losses of a canonical
likelihood at all images are then one matrix product. The latents are split into three groups, outer, left and right, so
that a block of configurations is (outer range) x (all left) x (all right). Every block adds to one table per group,
E[f | codes of that group]. Finally these small tables are reduced to c.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import checks, errors
from .choices import TARGETS
from .exact_errors import rounding_errors
from .losses import activations_per_code, losses_of_configurations
from .methods import MAX_CONFIGURATIONS, Compute, Enumerated
from .model import LatentModel, check_is_model
from .moved import moved
from .numerics import plain_arithmetic
from .programs.enumeration import gradient_of
from .programs.program import Program
from .progress import bar
from .setup import Setup, prepare

_KL = 64  # arrays of the size of the law of all codes, in the graph of the KL term
_TABLES = 2**20  # bytes of tables that are never too many
_DECODED = 2**26  # bytes of what is decoded at once on a CPU: its arrays are then such as `keep_freed_pages` keeps


@moved({"limit": "max_configurations={}", "shown": "progress={}"})
def exact_gradient(
    model: LatentModel | Program,
    x: Any,
    tf: float = 1.0,
    target: str = "sampled",
    *,
    kl: bool = False,
    dtype: torch.dtype | str = torch.float64,
    max_configurations: int = MAX_CONFIGURATIONS,
    memory: int | None = None,
    return_error: bool = False,
    progress: bool = False,
) -> Tensor | tuple[Tensor, Tensor] | dict[str, Tensor]:
    """The exact gradient of the expected loss of each example with respect to its logits, by enumeration.

    Of a Program, the exact gradient of the mean over examples with respect to its parameters.

    Parameters
    ----------
    model : LatentModel. Its encoder runs in the precision of its weights; everything after the logits uses float64.
        Or a Program, whose paths are enumerated, all in the precision `dtype`
    x : observations (example, ...); of a Program a tensor, or a dict or tuple of tensors
    tf : forward temperature; codes are sampled from softmax(l/tf)
    target : the law whose expected loss is differentiated: "sampled", softmax(l/tf), or "model", softmax(l)
    kl : add the gradient of KL(softmax(l) || uniform)
    dtype : precision of decoder and losses; torch.float32 takes half the time of torch.float64. Sums are float64
    max_configurations : larger code spaces raise an error
    memory : approximate working memory in bytes, without the parameters of the decoder and the result; by default
        256 MiB, on a GPU a quarter of the free memory
    return_error : also return a bound on the rounding error
    progress : show a progress bar on standard error

    Returns
    -------
    A float64 tensor (example, latent, category), for binary units (example, latent), in nats (or the unit of the
    likelihood) per logit; of a Program a dict of float64 tensors by parameter name. With `return_error` also a float64
    tensor (example,): a bound on the Euclidean norm of the error of each example, from the errors of the losses at
    about 300 configurations (see `exact_errors`).

    Raises
    ------
    ValueError
        Invalid temperatures, an unknown target, shapes that do not fit, logits or losses that are not finite;
        SpaceTooLarge, a ValueError, beyond `max_configurations`.

    Source: section 5.2.2 and appendix C of the Decoupled ST-GS paper.

    Examples
    --------
    >>> import gradlab
    >>> model, x = gradlab.bundled("vae-8x4-mnist"), gradlab.datasets.load("mnist-sample", "test").first(2).floats()
    >>> gradlab.exact_gradient(model, x, tf=1.6).shape
    torch.Size([2, 4, 8])
    """
    law = [(errors.temperature("tf", tf), errors.choice("target", target, TARGETS))]
    method = Enumerated(dtype=dtype, max_configurations=max_configurations)
    precision_of_losses = getattr(torch, method.dtype)
    if isinstance(model, Program):
        if kl or return_error:
            wrong = "kl: expected False for a Program, got True; add the term to its loss"
            raise errors.Excluded(wrong if kl else "return_error: expected False for a Program, got True")
        t = law[0][0] if law[0][1] == "sampled" else 1.0
        most = method.max_configurations
        return gradient_of(model, x, t, dtype=precision_of_losses, most=most, memory=memory, progress=progress)
    check_enumerable(model, method.max_configurations)
    with plain_arithmetic():
        setup = prepare(model, x, Compute(memory=memory, progress=progress))
        gradient = exact_gradients(setup, law, dtype=precision_of_losses)[0]
        if kl:
            gradient = gradient + kl_gradient(setup)
        return (gradient, rounding_errors(setup, law, precision_of_losses)[0]) if return_error else gradient


def exact_gradients(setup: Setup, laws: list[tuple[float, str]], *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Exact gradients for several (tf, target) in one pass, float64: `(law, example, latent[, category])`."""
    kind, logits = setup.kind, setup.wide_logits
    law_temperatures = [tf if target == "sampled" else 1.0 for tf, target in laws]
    distinct = sorted(set(law_temperatures))
    p = torch.stack([kind.law(logits, t) for t in distinct])  # (law, example, latent, code)
    c = conditional_losses(setup, p, dtype)
    of_laws = zip(distinct, p, c, strict=True)
    gradient = torch.stack([kind.gradient_of_law(logits, t, *p_and_c) for t, *p_and_c in of_laws])
    checks.finite("exact gradient", gradient, "temperatures this small overflow, or losses are too large")
    if law_temperatures == distinct:
        return gradient
    return torch.stack([gradient[distinct.index(t)] for t in law_temperatures])


def kl_gradient(setup: Setup) -> Tensor:
    """Gradient of KL(softmax(l) || uniform) with respect to the logits, untempered; float64."""
    kind, logits = setup.kind, setup.wide_logits
    of_example = _KL * sum(setup.model.code_counts) * logits.element_size()
    found = []
    for some in logits.detach().split(max(1, setup.memory // of_example)):
        with torch.enable_grad():
            leaf = some.clone().requires_grad_()
            found.append(torch.autograd.grad(kind.kl_to_uniform(leaf).sum(), leaf)[0])
    return torch.cat(found)


def check_enumerable(model: LatentModel, max_configurations: int) -> None:
    check_is_model(model)
    if model.configurations > max_configurations:
        raise errors.SpaceTooLarge(
            f"model: expected at most {max_configurations:,} configurations to enumerate, got"
            f" {errors.count(*model.code_counts)} configurations; measure bias against an unbiased reference"
            " (gradlab.bias, reference='auto') or the gradient gap (gradlab.gap), or a model with fewer"
            " latents or categories, or raise max_configurations"
        )


@torch.no_grad()
def conditional_losses(setup: Setup, p: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """c = E[f | z_l = k] under laws p (law, example, latent, code), of its shape, up to a constant per example."""
    measured = setup.in_precision(dtype)
    x = setup.x
    wide = x.is_floating_point() and not measured.narrow
    x = x.to(p.device, torch.promote_types(x.dtype, dtype) if wide else x.dtype)
    laws, examples = p.shape[:2]
    plan = _Plan.of(measured, x, laws, setup.memory)
    blocks = list(itertools.product(range(0, laws, plan.laws), range(0, examples, plan.examples)))
    c = torch.zeros_like(p)
    with bar("enumerating", len(blocks) * plan.sizes[0], setup.progress) as advance:
        for law, example in blocks:
            here = slice(law, law + plan.laws), slice(example, example + plan.examples)
            c[here] = _conditional(measured, x[here[1]], p[here], plan, setup.memory, advance)
    return c


class _Plan(NamedTuple):
    """Laws and examples that are contracted together, and three groups of latents, the first of which is looped over.

    A block holds two arrays (example, configuration of the first group, law), and arrays over some configurations of
    the other latents (see `_bytes_per_row`).
    """

    laws: int
    examples: int
    outer: int  # number of latents of the first group
    left: int  # and of the second
    sizes: tuple[int, int, int]  # configurations of the groups
    rows: int  # configurations whose arrays fit the memory
    decoded: int  # configurations to decode at a time

    @classmethod
    def of(cls, model: LatentModel, x: Tensor, laws: int, memory: int) -> _Plan:
        counts, count, examples = model.code_counts, len(model.code_counts), len(x)
        while True:
            bytes_per_row = _bytes_per_row(model, x[:examples], laws)
            rows = max(1, memory // bytes_per_row)
            outer = next((l for l in range(count) if math.prod(counts[l:]) <= rows), count - 1)
            held = 2 * math.prod(counts[:outer]) * examples * laws * torch.float64.itemsize
            if held <= max(memory // 2, _TABLES) or examples == laws == 1:
                break
            laws, examples = (laws, -(-examples // 2)) if examples > 1 else (-(-laws // 2), 1)
        decoded = max(1, _DECODED // bytes_per_row) if x.device.type == "cpu" else model.configurations
        left = (count - outer) // 2
        edges = (0, outer, outer + left, count)
        first, second, third = (math.prod(counts[a:b]) for a, b in itertools.pairwise(edges))
        return cls(laws, examples, outer, left, (first, second, third), rows, decoded)


def _conditional(
    model: LatentModel, x: Tensor, p: Tensor, plan: _Plan, memory: int, advance: Callable[[int], None]
) -> Tensor:
    """`conditional_losses` of some laws and examples."""
    laws, examples = p.shape[:2]
    of_latents = [p[:, :, l, :n].permute(1, 2, 0) for l, n in enumerate(model.code_counts)]
    edges = (0, plan.outer, plan.outer + plan.left, len(of_latents))
    groups = [of_latents[a:b] for a, b in itertools.pairwise(edges)]
    weights = [_joint(group, p) for group in groups]  # (example, configuration of the group, law)
    sizes = plan.sizes
    tables = [torch.zeros_like(w) for w in weights]
    centre: Tensor | None = None
    step = max(1, plan.rows // (sizes[1] * sizes[2]))
    with checks.deferred(p.device) as check:
        for start in range(0, sizes[0], step):
            stop = min(sizes[0], start + step)
            first, last = (i * sizes[1] * sizes[2] for i in (start, stop))
            decoded = [
                losses_of_configurations(model, x, i, min(i + plan.decoded, last), memory, check)
                for i in range(first, last, plan.decoded)
            ]
            f = torch.cat(decoded, 1).to(p.dtype)
            # f is in the hundreds, the gradient's entries may be below 0.01: only differences matter, so centre
            centre = f.mean(1, keepdim=True) if centre is None else centre
            f = (f - centre).reshape(examples, stop - start, sizes[1], sizes[2])
            w_outer = weights[0][:, start:stop]
            right_reduced = (f.flatten(1, 2) @ weights[2]).reshape(examples, stop - start, sizes[1], laws)
            left_reduced = f.mT @ weights[1][:, None]
            tables[0][:, start:stop] = (right_reduced * weights[1][:, None]).sum(2)
            tables[1] += (right_reduced * w_outer[:, :, None]).sum(1)
            tables[2] += (left_reduced * w_outer[:, :, None]).sum(1)
            advance(stop - start)
    c = torch.zeros_like(p)
    found = itertools.chain(*(_reduce(table, group) for table, group in zip(tables, groups, strict=True) if group))
    for latent, of_latent in enumerate(found):
        c[:, :, latent, : of_latent.shape[1]] = of_latent.permute(2, 0, 1)
    return c


def _joint(group: list[Tensor], like: Tensor) -> Tensor:
    """Joint probabilities of latents, each (example, category, law): (example, configuration, law)."""
    joint = like.new_ones(like.shape[1], 1, like.shape[0])
    for p in group:
        joint = (joint[:, :, None] * p[:, None]).flatten(1, 2)
    return joint


def _reduce(table: Tensor, group: list[Tensor]) -> list[Tensor]:
    """E[f | z_l = k] (example, category, law) of each latent of a group, from its table (example, configuration, law).

    Halves the group.
    """
    if len(group) == 1:
        return [table]
    half = len(group) // 2
    first, second = group[:half], group[half:]
    like = table.permute(2, 0, 1)
    w_first, w_second = _joint(first, like), _joint(second, like)
    halves = table.reshape(table.shape[0], w_first.shape[1], w_second.shape[1], table.shape[2])
    return [
        *_reduce((halves * w_second[:, None]).sum(2), first),
        *_reduce((halves * w_first[:, :, None]).sum(1), second),
    ]


def _bytes_per_row(model: LatentModel, x: Tensor, laws: int) -> int:
    """Working memory of one configuration: the decoder's outputs layer by layer, its losses, the contraction."""
    pixels = math.prod(x.shape[1:])
    decoder = activations_per_code(model, x) + 3 * pixels + len(x) + math.prod(model.code_shape)
    return decoder * x.element_size() + len(x) * (2 + laws) * torch.float64.itemsize
