"""Which code several threads may call at once.

torch's layers and the networks, likelihoods and estimators of this package store nothing when they are called. Any
other module may store results on itself or in a hook, and several threads would mix results of different rows. So all
other code is called from one thread.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from .. import estimators, likelihoods, model_checks
from ..estimators import Estimator
from ..model import LatentModel

_WRITE_NOTHING = ("torch.nn.modules.", "gradlab.networks.")


def all_built_in(some: Iterable[Estimator]) -> bool:
    """Whether several threads may call these estimators at once."""
    return all(map(estimators.is_built_in, some))


def decodes_in_threads(model: LatentModel) -> bool:
    """Whether several threads may call the model's decoder and likelihood at once."""
    of_likelihood = type(model.likelihood) in (likelihoods.Bernoulli, likelihoods.Gaussian)
    return type(model) is LatentModel and of_likelihood and all(map(_writes_nothing, model.decoder.modules()))


def _writes_nothing(module: nn.Module) -> bool:
    return f"{type(module).__module__}.".startswith(_WRITE_NOTHING) and model_checks.unhooked(module)
