"""How a measurement is made: each way carries its own options, as a small frozen object. Imports no torch.

A plain string stands for the object with its defaults: moments="monte-carlo" is MonteCarlo(), "exact" is Integrated();
reference="exact" is Enumerated(), "rloo" is Sampled("rloo"). An option is one line here: `fields.option` gives
its default, its help text and the values it takes, by which it is checked, and of which the command line is made.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from . import errors
from .fields import Checked, option

DRAWS = 1024
MAX_CONFIGURATIONS = 2**24
MAX_DRAWS = 2**17
TOLERANCE = 1e-3  # relative numerical error
DECODERS = ("auto", "table", "pairs", "draws")
PRECISIONS = ("float64", "float32")
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class MonteCarlo(Checked):
    """Mean and variance of an estimator from draws of its noise.

    Parameters
    ----------
    draws : estimates per point, at least 2
    decoder : how the loss at the sampled codes is computed; the numbers agree up to rounding. "table": once for each
        configuration that is drawn; "pairs": once for each distinct pair of image and code; "draws": for each draw;
        "auto": the one with the fewest operations that fits the memory (see `sampling.engine`)
    equal_cost : compare estimators at equal loss evaluations. One estimate is then the mean of several draws, such that
        every estimate costs what one draw of the most expensive estimator costs; variances are divided by that number

    Raises
    ------
    ValueError
        Fewer than two draws, or an unknown name.

    Examples
    --------
    >>> gradlab.MonteCarlo(draws=256).draws
    256
    """

    draws: int = option(DRAWS, "Estimates per point.", at_least=2, because="a variance needs two")
    decoder: str = option(
        AUTO,
        "How the loss at the sampled codes is computed: by configuration, by distinct image and code, or draw by draw;"
        " the figures agree.",
        DECODERS,
    )
    equal_cost: bool = option(
        False,
        "Compare estimators at equal loss evaluations: cheaper estimators average several draws per estimate.",
    )


@dataclass(frozen=True, kw_only=True)
class Integrated(Checked):
    """Mean and variance of an estimator without sampling: by enumeration, and integrals over the noise of one latent.

    Parameters
    ----------
    tolerance : largest relative numerical error of mean and standard deviation; a warning says where it is exceeded

    Raises
    ------
    ValueError
        A tolerance that is not a finite number above 0.

    Examples
    --------
    >>> gradlab.Integrated(tolerance=1e-4).tolerance
    0.0001
    """

    tolerance: float = option(TOLERANCE, "Largest relative numerical error of exact moments.")


@dataclass(frozen=True, kw_only=True)
class Enumerated(Checked):
    """The exact gradient as the reference, by enumerating the code space.

    Parameters
    ----------
    dtype : precision of the losses, torch.float64 or torch.float32, or its name; sums are float64. float32 takes half
        the time, and the variable `exact_gradient_error` then bounds what it costs. Stored as a name
    max_configurations : larger code spaces are refused

    Raises
    ------
    ValueError
        Another dtype, or fewer than one configuration.

    Examples
    --------
    >>> gradlab.Enumerated(dtype="float32").dtype
    'float32'
    """

    dtype: Any = option(
        "float64",
        "Precision of the losses in the exact gradient; float32 halves its time, and its error is stated.",
        PRECISIONS,
        called="exact_dtype",
    )
    max_configurations: int = option(MAX_CONFIGURATIONS, "Largest code space to enumerate.", at_least=1)


@dataclass(frozen=True)
class Sampled(Checked):
    """An unbiased estimator as the reference, for code spaces too large to enumerate.

    Parameters
    ----------
    estimator : a name such as "rloo" or "arms:n=4", an Estimator, or "auto": the one whose variance at equal loss
        evaluations is measured to be the smallest
    precision : draws are added until the 95 % interval of `relative_bias_debiased`, or of its value if that is above 1,
        is at most +- this at every point, beginning with `draws`; None: no draws are added
    max_draws : largest number of draws per point

    Raises
    ------
    ValueError
        A precision that is not a finite number above 0, fewer than two draws, or `max_draws` without a precision.

    Examples
    --------
    >>> gradlab.Sampled("rloo", precision=0.05).max_draws
    131072
    """

    estimator: Any = AUTO
    precision: float | None = option(
        None,
        "Add draws until the interval of the relative bias is at most +- this (of its value, where that is above 1).",
    )
    max_draws: int = option(MAX_DRAWS, "Largest number of draws per point.", at_least=2, beside="precision")


@dataclass(frozen=True, kw_only=True)
class Compute(Checked):
    """Where and how numbers are computed; only dtype and tf32 change the results.

    Parameters
    ----------
    device, dtype : where and in which precision draws are computed; None: the model's own. Sums are float64
    tf32 : let a GPU compute float32 with TensorFloat-32, which moves the bias
    memory : approximate working memory in bytes; None: 256 MiB, on a GPU a quarter of what is free. The decoder's
        parameters and the result come on top
    progress : draw a progress bar on standard error

    Raises
    ------
    ValueError
        Less than one byte. Device and dtype are checked where they are used.

    Examples
    --------
    >>> gradlab.Compute(memory=2**28).memory
    268435456
    """

    device: Any = option(None, "auto (a GPU where there is one), cpu, cuda, cuda:1, ...")
    dtype: Any = option(None, "Precision of the draws.  [default: the model's]")
    tf32: bool = option(False, "Allow TensorFloat-32 for float32 on a GPU: faster, but it changes the results.")
    memory: int | None = option(
        None,
        "Approximate working memory, such as 512MiB.  [default: 256MiB; on a GPU a quarter of the free memory]",
        at_least=1,
        kind="size",
    )
    progress: bool = option(False, "Draw a progress bar.")


MOMENTS: dict[str, type[MonteCarlo | Integrated]] = {"monte-carlo": MonteCarlo, "exact": Integrated}
Moments = MonteCarlo | Integrated
Reference = Enumerated | Sampled


def moments_of(given: object, draws: int | None = None) -> Moments:
    """The method of `moments`: "monte-carlo", "exact", or an object; `draws` is that of the first.

    Raises ValueError for anything else, and for `draws` that contradict the object; warns where they have no effect.
    """
    if isinstance(given, MonteCarlo):
        if draws is None or given.draws == draws:
            return given
        if given.draws != DRAWS:
            raise ValueError(f"draws: expected one number of draws, got {draws!r} beside {given!r}")
        return dataclasses.replace(given, draws=draws)
    if isinstance(given, Integrated):
        if draws is not None:
            raise ValueError(f"draws: expected none beside {given!r}, which draws nothing, got {draws!r}")
        return given
    method = MOMENTS[errors.choice("moments", given, list(MOMENTS))]
    if draws is None:
        return method()
    if method is Integrated:
        errors.warn("draws: no effect with moments='exact', which draws nothing; leave it out")
        return method()
    return MonteCarlo(draws=draws)


def reference_of(given: object) -> Reference | str:
    """The method of `reference`, or "auto": Enumerated where the code space is small enough, else Sampled."""
    if isinstance(given, Enumerated | Sampled):
        return given
    if isinstance(given, str):
        return AUTO if given == AUTO else Enumerated() if given == "exact" else Sampled(given)
    return Sampled(given)
