"""A program as it is measured: its observations, the copies that stand for its parameters, and calls of its loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.utils import _pytree as pytree

from .. import errors
from ..latents import derived_seed
from .program import ALL, Program
from .sites import Given, Sampler, Site, StructureChanged
from .stand_in import StandIn, copies, frozen, put_back


class Run:
    """Runs a program in one precision and place; the user's modules are not written to. To be used as a context.

    `sites` are those of the most probable path. Where the codes decide which sites there are, `by_row` is True: then
    examples and paths are run one by one.
    """

    def __init__(
        self, program: Program, x: Any, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
    ):
        self.program = program
        live = program.parameters
        self.device = next(iter(live.values())).device if device is None else torch.empty(0, device=device).device
        self.dtype = dtype
        self.names = list(live)
        self.leaves = copies(list(live.values()), dtype, self.device)
        self.modules = program.modules()
        self.stand_ins = frozen(self.modules, dtype, self.device)
        self.ids = [id(parameter) for parameter in live.values()]
        self.stand_ins |= dict(zip(self.ids, self.leaves, strict=True))
        self.x, self.structure = _observations(x, dtype, self.device)
        self.examples = next(len(leaf) for leaf in self.x if _has_examples(leaf))
        self.sites: list[Site] = []
        self.by_row = False
        self.saved = 0  # numbers that autograd keeps in a run of all examples
        self.greedy = torch.empty(0)  # losses on the most probable path

    @property
    def entries(self) -> list[int]:
        return [leaf.numel() for leaf in self.leaves]

    @contextlib.contextmanager
    def prepared(self) -> Iterator[Run]:
        """Within, losses can be run; checks that the program can be measured. ValueError where it cannot."""
        with put_back(self.modules):
            _probe(self)
            yield self

    def mode(self, leaves: Sequence[Tensor] | None = None, zero: Tensor | None = None) -> StandIn:
        """The function mode; for vmap, with other leaves standing for the parameters, and its zero."""
        others = {} if leaves is None else dict(zip(self.ids, leaves, strict=True))
        return StandIn({**self.stand_ins, **others}, self.dtype, self.device, zero)

    def rows(self, at: Tensor | None = None, mode: StandIn | None = None) -> Any:
        """x, or rows of it; copies, since layers may work in place, and under vmap one for each run."""
        if at is None:
            leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in self.x]
            leaves = [mode.one_each(leaf) for leaf in leaves] if mode is not None else leaves
        else:
            leaves = [leaf[at] if _has_examples(leaf) else leaf for leaf in self.x]
        return pytree.tree_unflatten(leaves, self.structure)

    def loss(self, x: Any, sampler: Sampler, rows: int) -> Tensor:
        """The loss of each row."""
        with sampler.mode:
            loss = self.program.loss(x, sampler)
        if not isinstance(loss, Tensor) or tuple(loss.shape) != (rows,) or loss.is_complex():
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise ValueError(f"loss: expected one loss per example, shape ({rows},), got {got} for {rows} examples")
        return loss.to(self.dtype)

    def at_codes(
        self, at: Tensor | None, tf: float, codes: Sequence[Tensor], differentiable: bool = False
    ) -> tuple[Tensor, Given]:
        """Losses of rows of x at codes, one for each row at each site, and the handler that was asked for them."""
        rows = self.examples if at is None else len(at)
        sampler = Given(rows, self.mode(), tf, codes, differentiable)
        return self.loss(self.rows(at), sampler, rows), sampler

    def gradients(self, of: Tensor, codes: Sequence[Tensor] = ()) -> list[Tensor]:
        """With respect to the leaves; 0 for those that do not matter. Runs back to `codes` too, if some are given."""
        if not of.requires_grad:
            return [torch.zeros_like(leaf) for leaf in self.leaves]
        ones, inputs = (torch.ones_like(of),), (*self.leaves, *codes)
        with self.mode():  # in which checkpointed layers run forward once more; torch.autograd.grad would leave it
            found = _engine_run_backward((of,), ones, False, False, inputs, True, accumulate_grad=False)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(found, self.leaves, strict=False)]

    def names_and_sizes(self) -> tuple[list[str], list[int]]:
        """Of all parameters together first."""
        return [ALL, *self.names], [sum(self.entries), *self.entries]


def _observations(x: Any, dtype: torch.dtype, device: torch.device) -> tuple[list[Any], Any]:
    """Leaves of x, floating-point ones in the precision of the measurement, and its structure."""
    leaves, structure = pytree.tree_flatten(x)
    found: list[Any] = []
    sizes: dict[int, int] = {}
    for leaf in leaves:
        if isinstance(leaf, np.ndarray):
            leaf = torch.as_tensor(leaf)
        if isinstance(leaf, Tensor):
            if leaf.layout != torch.strided:
                raise ValueError(f"x: expected dense tensors, got layout {leaf.layout}; use .to_dense()")
            kind = dtype if leaf.is_floating_point() else leaf.dtype
            leaf = leaf.detach().to(device=device, dtype=kind, copy=True)
            if leaf.ndim:
                sizes.setdefault(len(leaf), len(found))
        found.append(leaf)
    if not sizes or 0 in sizes:
        raise ValueError("x: expected tensors with at least one example, examples first, got none")
    if len(sizes) > 1:
        raise ValueError(
            f"x: expected tensors of one number of examples, examples first, got {' and '.join(map(str, sizes))};"
            " tensors that all examples share are for the loss to refer to, not for x"
        )
    return found, structure


def _has_examples(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0


# --- probes ---


def _probe(run: Run) -> None:
    """Learn the sites, and refuse programs whose figures would be wrong."""

    def count(tensor: Tensor) -> Tensor:
        run.saved += tensor.numel()
        return tensor

    before = torch.random.get_rng_state()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        greedy, sampler = _understood(run, lambda: run.at_codes(None, 1.0, (), differentiable=True))
    _check_replaced(run, greedy)
    if not sampler.mode.used.intersection(run.ids):
        raise ValueError(
            "wrt: expected parameters that the loss uses, got none of them; are they those of a copy, or of another"
            " module?"
        )
    _understood(run, lambda: run.gradients(greedy.sum(), sampler.leaves))
    run.sites, run.greedy = sampler.sites, greedy.detach()
    if not run.sites:
        raise ValueError("loss: expected at least one call of sample(logits), got none")
    with torch.no_grad():
        again = run.at_codes(None, 1.0, ())[0]
    if not torch.equal(before, torch.random.get_rng_state()) or _differ(again, run.greedy):
        raise ValueError(
            "loss: expected the same loss for the same x and codes, got others or a random call besides sample(); call"
            " .eval() on its modules, put noise into x, and keep no state between calls"
        )
    if not bool(torch.isfinite(run.greedy).all()):
        at = int(torch.nonzero(~torch.isfinite(run.greedy))[0])
        raise ValueError(f"loss: expected finite losses, got {run.greedy[at].item()} at example {at}")
    _check_rows(run)


def _check_replaced(run: Run, loss: Tensor) -> None:
    """ValueError where a parameter of the user's is used itself, and not the copy that stands for it."""
    names = dict(zip(run.ids, run.names, strict=True))
    ahead, seen = [loss.grad_fn], set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (name := names.get(id(getattr(node, "variable", None)))) is not None:
            raise ValueError(
                f"loss: expected parameters that torch's functions take, got {name} in a custom autograd function, in"
                f" TorchScript, or in a tensor computed before; give the function {name}.clone(), or take an eager"
                " module"
            )
        ahead += [following for following, _ in node.next_functions]


def _understood(run: Run, call: Any) -> Any:
    """The result of a call; where torch raises an error, a ValueError, which says in which precision it was."""
    try:
        return call()
    except (ValueError, StructureChanged):
        raise
    except RuntimeError as error:
        errors.pass_on_memory(error)
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        cure = "compute=gradlab.Compute(dtype=torch.float32), reference=gradlab.Enumerated(dtype='float32')"
        narrow = run.dtype == torch.float64 and ("dtype" in str(error).lower() or "TorchScript" in reason)
        hint = f"; {cure} measure in float32, if it is float64 that does not fit" if narrow else ""
        raise ValueError(
            f"loss: expected one that runs, and back, on x, got {type(error).__name__}: {reason}{hint}"
        ) from error


@torch.no_grad()
def _check_rows(run: Run) -> None:
    """Compare rows among others with the same rows alone, at codes drawn for this; tell whether the codes decide sites.

    Each of a few examples comes twice, with codes of its own: among all examples, and among these rows alone.
    """
    examples = sorted({0, run.examples // 2, run.examples - 1})
    generator = torch.Generator().manual_seed(derived_seed(0, "probe"))
    whole, few = (_drawn_codes(run, rows, generator) for rows in (run.examples, len(examples)))
    at = torch.tensor([*examples, *examples], device=run.device)
    codes = [torch.cat([a[at[: len(examples)]], b]) for a, b in zip(whole, few, strict=True)]
    alone = []
    for row in range(len(at)):
        of_row, sites = _row(run, at[row : row + 1], [code[row : row + 1] for code in codes])
        if sites != run.sites:
            run.by_row = True
            return
        alone.append(of_row)
    try:
        among_all, sampler = run.at_codes(None, 1.0, whole)
        among_few, sampler_of_few = run.at_codes(at, 1.0, codes)
    except (StructureChanged, RuntimeError, ValueError, IndexError, TypeError) as error:
        errors.pass_on_memory(error)
        raise ValueError(f"{_MIXES} (rows together: {type(error).__name__}: {error})") from error
    same = sampler.sites == run.sites and sampler_of_few.sites == run.sites
    together = torch.cat([among_all[at[: len(examples)]], among_few])
    if not same or _differ(together, torch.cat([*alone[: len(examples)], *alone])):
        raise ValueError(_MIXES)


def _drawn_codes(run: Run, rows: int, generator: torch.Generator) -> list[Tensor]:
    """Codes of each site, all alike probable."""
    found = []
    for site in run.sites:
        a = torch.rand(rows, *site.shape, generator=generator, dtype=torch.float64) - 0.5
        found.append(site.kind.hard(a).to(run.device, run.dtype))
    return found


_MIXES = (
    "loss: expected the loss of an example to depend on that example and its codes alone, and any number of examples,"
    " got losses that depend on other examples; take torch.where in place of an `if` on codes, and no mean, norm or"
    " contrast over the batch"
)


def _row(run: Run, at: Tensor, codes: Sequence[Tensor]) -> tuple[Tensor, list[Site]]:
    """Loss of one row and the sites that it met; codes of sites that fit are taken, others are the most probable."""
    taken = list(codes)
    while True:
        try:
            loss, sampler = run.at_codes(at, 1.0, taken)
            return loss, sampler.sites
        except StructureChanged:
            taken.pop()


def _differ(found: Tensor, wanted: Tensor) -> bool:
    most = float(wanted.abs().nan_to_num(posinf=0.0).max())
    off = float((found - wanted).abs().nan_to_num(posinf=0.0).max())
    return off > torch.finfo(found.dtype).eps ** 0.5 * most
