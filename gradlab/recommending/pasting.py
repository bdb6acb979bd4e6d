"""The line of code that trains with an estimator: gradlab's, and torch's own where that is exactly the same."""

from __future__ import annotations

from ..estimators import Estimator
from ..k_hot import KHot
from ..latents import BINARY, CATEGORICAL, LatentKind

# names as in `import torch.nn.functional as F; import torch.distributions as D`


def line(e: Estimator, kind: LatentKind) -> str:
    """gradlab's: a layer where there is one, else the loss that any estimator has."""
    tf, tb = f"{e.tf:g}", f"{getattr(e, 'tb', e.tf):g}"
    if e.label == "decoupled-st-gs" and kind is CATEGORICAL:
        return f"z = gradlab.decoupled_st_gumbel_softmax(logits, tf={tf}, tb={tb})"
    if e.label == "gumbel-softmax" and kind is CATEGORICAL:
        return f"z = gradlab.estimators.gumbel_softmax(logits, tf={tf}, tb={tb})"
    of_kind = f", top_k={kind.k}" if isinstance(kind, KHot) else ", binary=True" if kind is BINARY else ""
    return f'loss = gradlab.estimators.surrogate_loss("{spelled(e)}", logits, f{of_kind}).mean()'


def program_line(e: Estimator) -> str:
    """gradlab's for a program."""
    return f'loss = program.surrogate_loss("{spelled(e)}", x).mean()'


def spelled(e: Estimator) -> str:
    """The text that `estimators.parse` takes: `rloo:tf=1.6,n=4`."""
    given = {name: value for name, value in e.parameters.items() if name in ("tf", "tb")}
    other = e.label.removeprefix(e.name).strip("()")
    parts = [f"{name}={value:g}" for name, value in given.items()] + ([other.replace(", ", ",")] if other else [])
    return f"{e.name}:{','.join(parts)}"


def torch_line(e: Estimator, kind: LatentKind) -> str:
    """torch's own spelling, or "" where it has none that is the same."""
    if not kind.one_hot:
        return ""
    tf, tb = e.tf, getattr(e, "tb", e.tf)
    scaled = "logits" if tf == 1 else f"logits / {tf:g}"
    if kind is BINARY:
        relaxed = f"z = D.RelaxedBernoulli(torch.tensor({tb:g}), logits={scaled}).rsample()"
        return relaxed if e.label == "gumbel-softmax" else ""
    if e.label == "gumbel-softmax":
        return f"z = F.gumbel_softmax({scaled}, tau={tb:g})"
    if e.label in ("decoupled-st-gs", "st-gs") and tb == tf:  # the noise stands outside the division
        return f"z = F.gumbel_softmax({scaled}, tau=1, hard=True)"
    if e.label == "st-gs(convention=jang)" and tf == 1:
        return f"z = F.gumbel_softmax(logits, tau={tb:g}, hard=True)"
    if e.label == "ste" and tb == tf:
        return f"z = D.OneHotCategoricalStraightThrough(logits={scaled}).rsample()"
    return ""
