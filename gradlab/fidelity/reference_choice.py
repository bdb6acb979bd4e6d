"""The reference that `bias` chooses where the code space is too large, for measurements that are divided by tf."""

from __future__ import annotations

import dataclasses
from typing import Any

import xarray as xr

from ..attributes import of_candidates
from ..methods import AUTO, Compute, Sampled
from ..model import LatentModel
from ..numerics import plain_arithmetic
from ..setup import prepare
from .reference import choose
from .request import Request, candidates_at, requested

CHOSEN = "reference"  # the attribute that names the choice
CANDIDATES = tuple(of_candidates({}))  # those of what it was chosen from
# arguments of `bias` that a request holds, with their defaults
_ASKED = {"draws": None, "wrt": "logits", "cross": None, "kl": False, "target": "sampled", "moments": "monte-carlo"}
_ASKED |= {"reference": AUTO, "estimator": "decoupled-st-gs"}


def undecided(model: Any, tf: Any, tb: Any, **asked: Any) -> Sampled | None:
    """The method of the reference if `bias` with these arguments chooses one by draws at several tf, else None.

    Arguments and errors are those of `gradlab.bias`.
    """
    if not isinstance(model, LatentModel):
        return None  # a Program, whose reference is rloo
    request = _request(model, tf, tb, asked)
    method = request.reference
    several = len(set(request.law_tfs)) > 1
    return method if several and isinstance(method, Sampled) and method.estimator == AUTO else None


def reference_choice(
    model: LatentModel, x: Any, tf: Any, tb: Any, *, seed: int = 0, compute: Compute | None = None, **asked: Any
) -> xr.Dataset:
    """A Dataset without variables, whose attributes are what `bias` says of its choice at all these tf together."""
    compute = compute or Compute()
    request = _request(model, tf, tb, asked)
    assert isinstance(request.reference, Sampled)
    with plain_arithmetic(compute.tf32):
        setup = prepare(model, x, compute, seed)
        among = candidates_at(setup.kind, setup.logits, request.reference)
        chosen, over = choose(setup, request.law_tfs, among)
    return xr.Dataset(attrs={CHOSEN: chosen.label} | of_candidates(over))


def decided(method: Sampled, choice: xr.Dataset) -> Sampled:
    """The method with the estimator of a choice."""
    return dataclasses.replace(method, estimator=str(choice.attrs[CHOSEN]))


def _request(model: LatentModel, tf: Any, tb: Any, asked: dict[str, Any]) -> Request:
    given = _ASKED | {name: value for name, value in asked.items() if name in _ASKED}
    return requested(model, tf, tb, **given | {"wrt": given["wrt"] or "logits"})
