"""Means and medians over seeds, collapsed trainings, and the best pair of temperatures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.special
import torch
import xarray as xr
from torch import Tensor

from .. import likelihoods
from ..datasets import Images
from .cells import text
from .collecting import alone
from .folder import ANALYSIS

FINAL = "final_validation_loss"
WITHOUT_CODE = "loss_without_code"  # attribute of a sweep: the loss of one picture for all images
COLLAPSED = 0.98  # of the loss without a code; above it the code carries no information about the image
BLOCK = 10_000  # images at once


class Mean(NamedTuple):
    """A mean over seeds with its 95 % interval (Student's t). The ends are NaN for fewer than two seeds."""

    value: float
    low: float
    high: float
    seeds: int


class Best(NamedTuple):
    """The pair of temperatures with the lowest mean."""

    tf: float | str
    tb: float | str
    mean: Mean


def over_seeds(ds: xr.Dataset, name: str = FINAL) -> xr.Dataset:
    """The mean, its interval (low, high) and the number of seeds of a variable, without NaN.

    mean -/+ t(0.975, n - 1) s / sqrt(n), where s is the standard deviation over the n seeds that are not NaN. There is
    no interval for fewer than two. Raises KeyError if there is no such variable.

    Examples
    --------
    >>> ds = gradlab.open_results("sweep.h5")
    >>> list(gradlab.sweeps.over_seeds(ds))
    ['mean', 'low', 'high', 'seeds']
    """
    values = ds[name]
    count = values.notnull().sum("seed")
    error = values.std("seed", ddof=1) / np.sqrt(count.where(count > 1))
    half = error * scipy.special.stdtrit(np.maximum(count - 1, 1), 0.975)
    mean = values.mean("seed")
    found = xr.Dataset({"mean": mean, "low": mean - half, "high": mean + half})
    words = {"mean": "mean over seeds of ", "low": "lower end of its 95 % interval: ", "high": "upper end: "}
    for part, begun in words.items():
        found[part].attrs = {"long_name": begun + str(values.attrs["long_name"]), "units": values.attrs["units"]}
    found["seeds"] = count.assign_attrs(long_name="seeds that are done", units="1")
    return found


def with_means(ds: xr.Dataset) -> xr.Dataset:
    """The sweep with the variables over seeds that plots need: NAME_mean, NAME_mean_low, NAME_mean_high, NAME_median.

    Also `collapsed`, the number of collapsed seeds of each pair, if the loss without a code is known. The file of a
    single cell becomes a sweep of one.

    Examples
    --------
    >>> ds = gradlab.open_results("sweep.h5")
    >>> means = gradlab.sweeps.with_means(ds)
    >>> means.final_validation_loss_mean.dims
    ('tf', 'tb')
    """
    if ds.attrs.get("analysis") == ANALYSIS:
        ds = alone(ds)
    parts = {"mean": "mean", "low": "mean_low", "high": "mean_high"}
    for name in (FINAL, "validation_loss"):
        means = over_seeds(ds, name)
        ds = ds.assign({f"{name}_{ending}": means[part] for part, ending in parts.items()})
    ds[f"{FINAL}_mean"].attrs |= {"short_name": "validation loss", "rank": 1.0}
    words = {"long_name": f"median over seeds of {ds[FINAL].attrs['long_name']}", "units": ds[FINAL].attrs["units"]}
    ds[f"{FINAL}_median"] = ds[FINAL].median("seed").assign_attrs(words)
    if WITHOUT_CODE in ds.attrs:
        ds["collapsed"] = collapsed(ds).sum("seed").assign_attrs(long_name="seeds that collapsed", units="1")
    return ds


def collapsed(ds: xr.Dataset) -> xr.DataArray:
    """True (tf, tb, seed) for trainings that ended with at least 98 % of the loss without a code.

    Their code carries no information about the image: all images share one code, or the code is noise. False for
    failed trainings, and everywhere if the attribute `loss_without_code` is missing.

    Examples
    --------
    >>> ds = gradlab.open_results("sweep.h5")
    >>> dict(gradlab.sweeps.collapsed(ds).sizes)
    {'tf': 2, 'tb': 2, 'seed': 2}
    """
    return ds[FINAL] >= COLLAPSED * ds.attrs.get(WITHOUT_CODE, np.inf)


def loss_without_code(likelihood: likelihoods.Likelihood, images: Images, validation: Images) -> float:
    """The mean validation loss of a decoder that shows every image the mean of the training images.

    A decoder without a code cannot be better than the mean of its training images. For a Bernoulli likelihood the mean
    of N images is (sum + 1/2)/(N + 1), because a pixel that is 0 in all images has an infinite loss at 1.

    Examples
    --------
    >>> images = gradlab.datasets.load("mnist-sample")
    >>> loss = gradlab.sweeps.loss_without_code(gradlab.likelihoods.resolve("bernoulli"), images, images)
    >>> round(loss)
    198
    """
    mean = _mean_image(images)
    parameters = mean
    if isinstance(likelihood, likelihoods.Bernoulli):
        parameters = torch.logit((mean * len(images) + 0.5) / (len(images) + 1))
    total = 0.0
    for start in range(0, len(validation), BLOCK):
        x = validation.floats(slice(start, start + BLOCK)).double()
        total += float(likelihood(parameters.expand(len(x), *parameters.shape), x).sum())
    return total / len(validation)


def _mean_image(images: Images) -> Tensor:
    blocks = (images.floats(slice(start, start + BLOCK)).double() for start in range(0, len(images), BLOCK))
    return torch.stack([x.sum(0) for x in blocks]).sum(0) / len(images)


def best(ds: xr.Dataset, diagonal: bool = False, name: str = FINAL) -> Best | None:
    """The pair with the lowest mean over seeds, among those with the most seeds done; None if there is none.

    `diagonal`: only pairs with tf = tb. The interval is that of a single pair. It does not allow for the choice of the
    lowest of many, which makes the pair look better than it is.

    Examples
    --------
    >>> ds = gradlab.open_results("sweep.h5")
    >>> best = gradlab.sweeps.best(ds)
    >>> best.tf in ds.tf, best.tb in ds.tb
    (True, True)
    """
    found = over_seeds(ds, name)
    candidates = found["mean"].where(found.seeds == found.seeds.max())
    if diagonal:
        tf, tb = (np.array([text(value) for value in ds[axis].values.tolist()]) for axis in ("tf", "tb"))
        candidates = candidates.where(xr.DataArray(tf[:, None] == tb, dims=("tf", "tb")))
    if not bool(candidates.notnull().any()):
        return None
    at = {dim: int(i) for dim, i in candidates.argmin(["tf", "tb"]).items()}
    one = found.isel(at)
    mean = Mean(float(one["mean"]), float(one["low"]), float(one["high"]), int(one["seeds"]))
    return Best(one.tf.item(), one.tb.item(), mean)
