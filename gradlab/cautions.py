"""What a reader of a result must know before its numbers: where sampling could not see, and what chance alone did.

Read from the variables of a Dataset alone, so that a file says it wherever it is shown, printed or drawn.
"""

from __future__ import annotations

import xarray as xr

# roots of squares that are estimated without sampling noise, and may come out negative
SIGNED = {
    "relative_bias_debiased": "relative bias",
    "matched_bias_debiased": "matched bias",
    "mean_norm_debiased": "norm of the mean estimate",
}


def cautions(ds: xr.Dataset) -> list[str]:
    """Sentences; none where there is nothing to be careful about."""
    return _below_zero(ds)


def _below_zero(ds: xr.Dataset) -> list[str]:
    found = []
    for name, words in SIGNED.items():
        high = f"{name}_high"
        if name not in ds or high not in ds:
            continue
        count = int((ds[high] < 0).sum())
        if count:
            where = f"at {count:,} of {int(ds[name].notnull().sum()):,} points " if ds[name].size > 1 else ""
            found.append(
                f"{words.capitalize()}: {where}the whole interval lies below 0. The estimate of its square is negative,"
                " which only sampling noise makes it: read it as not resolved from 0."
            )
    return found
