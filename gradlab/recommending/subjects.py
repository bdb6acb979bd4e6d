"""What candidates are measured on: a LatentModel at its logits, or a Program at its parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from .. import progress
from ..errors import whole_number
from ..estimators import Estimator
from ..exact import check_enumerable
from ..fidelity.labels import attributes
from ..fidelity.program_analysis import attributes_of_program, enumerated_at, rarity_of, reference_for, rloo_of
from ..fidelity.rarity import Rarity, rarity
from ..fidelity.reference import choose
from ..methods import AUTO, MAX_CONFIGURATIONS, Compute, Enumerated
from ..model import check_is_model
from ..numerics import plain_arithmetic, precision_and_place, working_memory
from ..programs.enumeration import along_greedy
from ..programs.layers import check_serves, paths_of
from ..programs.program import Program
from ..programs.run import Run
from ..programs.sites import StructureChanged
from ..setup import Setup, prepare
from . import pasting
from .errors_of_averages import Observed
from .measuring import LEAST_EXAMPLES, Reference, exact_reference, measured
from .measuring_programs import measured_of_program


class Subject(Protocol):
    """What candidates are measured on. `refer` comes before `measured` and `blind`."""

    examples: int
    provenance: Mapping[str, Any]
    over_examples: bool  # whether intervals are over examples too

    def check_serves(self, e: Estimator) -> None:
        """ValueError for an estimator that cannot be measured here."""

    def evaluations(self, e: Estimator) -> int:
        """Loss evaluations of one draw, for each example."""

    def refer(self, tf: float, target: str) -> str:
        """Finds the reference that candidates are compared with, and returns its name."""

    def measured(self, chosen: Sequence[Estimator], draws: int, name: str, advance: progress.Advance) -> list[Observed]:
        """What draws say of each estimator; rounds of other names have noise of their own."""

    def rare(self, tf: float) -> Rarity:
        """Where draws of softmax(l/tf) miss what carries the gradient."""

    def attributes(self, draws: int, **more: Any) -> dict[str, Any]:
        """Of the table."""

    def lines(self, e: Estimator) -> tuple[str, str]:
        """Code that trains with an estimator: gradlab's, and torch's own or ""."""


@contextlib.contextmanager
def subject_of(model: Any, x: Any, compute: Compute, seed: Any) -> Iterator[Subject]:
    """The subject of a model or a program. ValueError where it cannot be measured."""
    with plain_arithmetic(compute.tf32):
        if not isinstance(model, Program):
            check_is_model(model)
            yield OfModel(prepare(model, x, compute, seed))
            return
        seed = whole_number("seed", seed, 0)
        precision_and_place(compute.dtype, compute.device)
        with Run(model, x, compute.dtype or torch.float64, compute.device).prepared() as run:
            yield OfProgram(run, x, seed, compute)


class OfModel:
    """A model at its logits, whose gradients are sums over examples."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.examples = len(setup.x)
        self.provenance: Mapping[str, Any] = setup.original.provenance
        self.over_examples = self.examples >= LEAST_EXAMPLES

    def check_serves(self, e: Estimator) -> None:
        kind = self.setup.kind
        if kind.name not in e.kinds:
            raise ValueError(
                f"estimator: expected one for {kind.name} latents, got {e.name}, which is for {' and '.join(e.kinds)}"
            )

    def evaluations(self, e: Estimator) -> int:
        return e.evaluations_at(self.setup.kind, self.setup.logits)

    def refer(self, tf: float, target: str) -> str:
        setup = self.setup
        if setup.model.configurations <= MAX_CONFIGURATIONS:
            check_enumerable(setup.model, MAX_CONFIGURATIONS)
            self.reference = exact_reference(setup, tf, target)
        else:
            unbiased = choose(setup, [tf if target == "sampled" else 1.0])[0]
            self.reference = Reference(tf, target, None, unbiased)
        return self.reference.label

    def measured(self, chosen: Sequence[Estimator], draws: int, name: str, advance: progress.Advance) -> list[Observed]:
        return measured(self.setup, chosen, self.reference, draws, name, advance)

    def rare(self, tf: float) -> Rarity:
        of_law = self.reference.exact if self.reference.target == "sampled" else None
        return rarity(self.setup.kind, self.setup.wide_logits, [tf], None if of_law is None else of_law[None])

    def attributes(self, draws: int, **more: Any) -> dict[str, Any]:
        return attributes("recommendation", self.setup, draws, **more)

    def lines(self, e: Estimator) -> tuple[str, str]:
        kind = self.setup.kind
        return pasting.line(e, kind), pasting.torch_line(e, kind)


class OfProgram:
    """A program at its parameters, whose gradients are those of the mean over examples."""

    provenance: Mapping[str, Any] = {}
    over_examples = False

    def __init__(self, run: Run, x: Any, seed: int, compute: Compute):
        self.run, self.x, self.seed, self.compute = run, x, seed, compute
        self.examples = run.examples
        self.memory = working_memory(compute.memory, run.device)

    def check_serves(self, e: Estimator) -> None:
        check_serves(e, self.run.sites)

    def evaluations(self, e: Estimator) -> int:
        return paths_of(e)

    def refer(self, tf: float, target: str) -> str:
        law = tf if target == "sampled" else 1.0
        found = reference_for(AUTO, self.run)
        try:
            self._refer(found, tf, target, law)
        except StructureChanged:  # of codes that the probes did not meet
            self.run.by_row = True
            self._refer(found, tf, target, law)
        return self.reference.label

    def _refer(self, found: Any, tf: float, target: str, law: float) -> None:
        if isinstance(found, Enumerated):
            exact = enumerated_at(self.run, self.x, [law], found, self.memory, self.compute.progress)[law]
            self.known = {law: rarity_of([exact])}
            vector = torch.cat([gradient.flatten() for gradient in exact.gradients])
            self.reference = Reference(tf, target, vector[None])
        else:
            self.known = {}
            self.reference = Reference(tf, target, None, rloo_of(found))

    def measured(self, chosen: Sequence[Estimator], draws: int, name: str, advance: progress.Advance) -> list[Observed]:
        given = (chosen, self.reference, draws, name, self.seed, self.memory, advance)
        try:
            return measured_of_program(self.run, *given)
        except StructureChanged:
            self.run.by_row = True
            return measured_of_program(self.run, *given)

    def rare(self, tf: float) -> Rarity:
        return self.known[tf] if tf in self.known else rarity_of([along_greedy(self.run, tf)])

    def attributes(self, draws: int, **more: Any) -> dict[str, Any]:
        return attributes_of_program("recommendation", self.run, self.seed, draws, **more)

    def lines(self, e: Estimator) -> tuple[str, str]:
        return pasting.program_line(e), ""
