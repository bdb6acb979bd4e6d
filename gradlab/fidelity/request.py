"""The request of a `gradlab.bias` call, parsed and checked, and the combinations of methods that are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .. import errors, estimators, specs
from ..choices import BOTH, TARGETS, WRT
from ..estimators import Estimator, dictionary
from ..exact import check_enumerable
from ..latents import LatentKind
from ..methods import (
    AUTO,
    MAX_CONFIGURATIONS,
    Enumerated,
    Integrated,
    Moments,
    MonteCarlo,
    Reference,
    Sampled,
    moments_of,
    reference_of,
)
from ..model import LatentModel
from ..moments import check_supported

CANDIDATES = ("rloo", "disarm", "arms:n=4")  # for reference "auto", if they take the model's kind of latent
COSTLY = "leg"  # where a precision is asked too: its few draws of many evaluations may reach it sooner
MOST_EVALUATIONS = 256  # of a draw of it: with more, the least number of draws takes longer than the others need


@dataclass(frozen=True)
class Request:
    """What to measure, and how."""

    estimators: tuple[Estimator, ...]
    tfs: list[float]
    tbs: list[float]
    targets: tuple[str, ...]
    moments: Moments
    reference: Reference
    wrt: str
    kl: bool
    cross: tuple[float, float] | None
    dropped: tuple[str, ...]  # dims of length one that the result does not have

    @property
    def labels(self) -> list[str]:
        return [e.label for e in self.estimators]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Positions of tf and tb of all points that are measured."""
        every = [(i, j) for i in range(len(self.tfs)) for j in range(len(self.tbs))]
        if self.cross is None:
            return every
        tf, tb = self.cross
        return [(i, j) for i, j in every if self.tfs[i] == tf or self.tbs[j] == tb]

    @property
    def law_tfs(self) -> list[float]:
        """For each tf, the t of the law softmax(l/t) that the codes follow: 1 if they follow softmax(l) whatever tf."""
        return [1.0] * len(self.tfs) if all(e.law == "model" for e in self.estimators) else self.tfs

    @property
    def laws(self) -> list[tuple[float, str]]:
        """(t, target), target first."""
        return [(t, target) for target in self.targets for t in self.law_tfs]


def requested(
    model: LatentModel,
    tf: Any,
    tb: Any,
    *,
    estimator: Any,
    draws: int | None,
    target: str,
    wrt: str,
    moments: Any,
    reference: Any,
    cross: Any,
    kl: bool,
) -> Request:
    """The Request of a call; arguments and errors are those of `gradlab.bias`."""
    given = listed(estimator)
    tfs, tbs = temperatures_of(tf, tb, given)
    method = moments_of(moments, draws)
    request = Request(
        _estimators(given, model.kind),
        tfs,
        tbs,
        TARGETS if target == BOTH else (errors.choice("target", target, (*TARGETS, BOTH)),),
        method,
        _reference(reference, method, model),
        errors.choice("wrt", wrt, WRT),
        kl,
        cross_of(cross, tfs, tbs),
        dropped(estimator, target),
    )
    _check_combination(request)
    check_laws(request)
    if isinstance(request.reference, Enumerated):
        check_enumerable(model, request.reference.max_configurations)
    if isinstance(method, Integrated):
        check_supported(request.estimators, model.kind)
    return request


def temperatures_of(tf: Any, tb: Any, given: Sequence[Any]) -> tuple[list[float], list[float]]:
    """tf and tb of all points; tb is by default what the names of layers among the estimators state, or else tf.

    Raises ValueError for values out of range, and for temperatures that a named layer does not have.
    """
    tfs = errors.temperatures("tf", tf)
    if tb is None:
        stated = dictionary.stated_tb(given)
        tb = tfs if stated is None else stated
    tbs = errors.temperatures("tb", tb)
    dictionary.check_temperatures(given, tfs, tbs)
    return tfs, tbs


EQUAL_COST_SAMPLED = (
    "equal_cost: expected False beside a sampled reference, whose draws all estimators share, got True; compare"
    " variances per loss evaluation (`evaluations`), or take reference='exact'"
)
# request -> why it cannot be measured. All other combinations can: gradients with respect to logits or encoder, against
# the enumerated gradient with moments from draws or integrated, against a sampled reference with moments from draws
_REFUSED: list[tuple[Callable[[Request], bool], str]] = [
    (
        lambda r: isinstance(r.moments, Integrated) and isinstance(r.reference, Sampled),
        "moments: expected 'monte-carlo' beside a sampled reference, got 'exact'; exact moments enumerate the code"
        " space, so reference='exact' costs nothing more",
    ),
    (
        lambda r: isinstance(r.moments, MonteCarlo) and r.moments.equal_cost and isinstance(r.reference, Sampled),
        EQUAL_COST_SAMPLED,
    ),
    (
        lambda r: (
            isinstance(r.moments, MonteCarlo)
            and r.moments.decoder not in (AUTO, "draws")
            and isinstance(r.reference, Sampled)
        ),
        "decoder: expected 'draws' or 'auto' beside a sampled reference, which decodes draw by draw, got another",
    ),
    (
        lambda r: isinstance(r.reference, Enumerated) and r.reference.dtype != "float64" and r.wrt == "encoder",
        "reference: expected Enumerated(dtype='float64') beside wrt='encoder', got Enumerated(dtype='float32'), whose"
        " error is bounded at the logits only",
    ),
]


def _check_combination(request: Request) -> None:
    for applies, why in _REFUSED:
        if applies(request):
            raise errors.Excluded(why)


def check_laws(request: Request) -> None:
    """ValueError where the exact gradient of the law that is sampled would be another one for each estimator."""
    laws = {e.law: e.label for e in request.estimators}
    if len(laws) > 1 and "sampled" in request.targets and any(tf != 1 for tf in request.tfs):
        raise ValueError(
            f"estimator: expected estimators that sample one law, got {laws['model']}, which samples softmax(l) for any"
            f" tf, beside {laws['tf']}, which samples softmax(l/tf); take tf=1 or target='model', or measure them apart"
        )


class Arms(tuple[float, float]):
    """The pair that a cross goes through, where a part of its tf is measured: maybe without the tf of the pair."""


def cross_of(cross: Any, tfs: list[float], tbs: list[float]) -> tuple[float, float] | None:
    """The pair of temperatures that a cross goes through. Raises ValueError for others than those measured."""
    if cross is None:
        return None
    if isinstance(cross, tuple | list) and len(cross) == 2:
        tf, tb = (errors.temperature("cross", t) for t in cross)
        if (tf in tfs or isinstance(cross, Arms)) and tb in tbs:
            return tf, tb
    raise ValueError(f"cross: expected a pair of one of tf {tfs} and one of tb {tbs}, got {cross!r}")


def _estimators(given: Sequence[Any], kind: LatentKind) -> tuple[Estimator, ...]:
    chosen = tuple(_estimator(one, kind) for one in given)
    labels = [e.label for e in chosen]
    if not chosen or len(set(labels)) < len(labels):
        raise ValueError(f"estimator: expected at least one, each of them once, got {labels}")
    return chosen


def estimator_of(given: Any, argument: str = "estimator") -> Estimator:
    """The estimator of a name, or the object itself. Raises ValueError for anything else."""
    if isinstance(given, str):
        given = estimators.parse(given)
    if not isinstance(given, Estimator):
        raise ValueError(f"{argument}: expected a name of gradlab.estimators.names(), or an Estimator, got {given!r}")
    return given


def _estimator(given: Any, kind: LatentKind) -> Estimator:
    given = estimator_of(given)
    if kind.name not in given.kinds:
        raise ValueError(f"estimator: expected one for {kind.name} latents, got {given.name}, {_for_kinds(given)}")
    return given


def _for_kinds(e: Estimator) -> str:
    return f"which is for {' and '.join(e.kinds)} latents"


def _reference(given: Any, moments: Moments, model: LatentModel) -> Reference:
    reference = reference_of(given)
    if isinstance(reference, str):
        enumerable = isinstance(moments, Integrated) or model.configurations <= MAX_CONFIGURATIONS
        return Enumerated() if enumerable else Sampled()
    if isinstance(reference, Sampled):
        unbiased_reference(reference, model.kind)
    return reference


def listed(estimator: Any) -> list[Any]:
    """What `estimator` names, one or several."""
    return list(estimator) if _several(estimator) else [estimator]


def dropped(estimator: Any, target: str) -> tuple[str, ...]:
    """The dims that a single estimator and a single target leave out of the dataset."""
    kept = {"estimator": _several(estimator), "target": target == BOTH}
    return tuple(dim for dim in kept if not kept[dim])


def _several(estimator: Any) -> bool:
    return not isinstance(estimator, str | Estimator) and isinstance(estimator, Iterable)


def candidates(kind: LatentKind) -> list[Estimator]:
    """The references that "auto" always chooses from."""
    return [e for e in map(estimators.parse, CANDIDATES) if kind.name in e.kinds]


def candidates_at(kind: LatentKind, logits: Tensor, method: Sampled) -> list[Estimator]:
    """The references that "auto" chooses from at such logits: `leg` too where it may reach the precision sooner."""
    costly = estimators.get(COSTLY)
    serves = method.precision is not None and kind.name in costly.kinds
    serves = serves and costly.evaluations_at(kind, logits) <= MOST_EVALUATIONS
    return candidates(kind) + [costly] * serves


def unbiased_reference(method: Sampled, kind: LatentKind) -> Estimator | str:
    """The estimator of a sampled reference, or "auto". Raises ValueError unless it is unbiased and sampled."""
    given = method.estimator
    if given == AUTO:
        return AUTO
    if isinstance(given, str):
        if specs.parts(given)[0] not in estimators.names():
            raise errors.unknown_name("reference", given, (AUTO, "exact", *estimators.names()))
        given = estimators.parse(given)
    known = f"auto, exact, {', '.join(e.name for e in candidates(kind))}"
    if not isinstance(given, Estimator):
        raise ValueError(f"reference: expected an unbiased estimator ({known}), got {given!r}")
    if not given.unbiased:
        inherits = any(vars(base).get("unbiased") for base in type(given).__mro__)
        cure = "; a class that overrides points or estimate has to state `unbiased = True` itself" if inherits else ""
        raise ValueError(f"reference: expected an unbiased estimator ({known}), got {given.label}{cure}")
    check_drawn(given, "reference")
    if kind.name not in given.kinds:
        raise ValueError(
            f"reference: expected one for {kind.name} latents ({known}), got {given.name}, {_for_kinds(given)}"
        )
    return given


def check_drawn(e: Estimator, argument: str) -> None:
    """Raise ValueError unless the estimator is sampled and its draws are independent."""
    if e.all_configurations:
        raise ValueError(f"{argument}: expected an estimator that is sampled, got {e.name}, which enumerates the codes")
    if e.baseline_decay is not None:
        raise ValueError(
            f"{argument}: expected an estimator whose draws are independent, got {e.label}, which depends on the draws"
            " before and so on the other examples"
        )
