"""Means and medians over seeds, trainings that collapsed, and the pair of temperatures that is best."""

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

FINAL = "final_validation_loss"
WITHOUT_CODE = "loss_without_code"  # attribute of a sweep: the loss of one picture for all images
COLLAPSED = 0.98  # of the loss without a code: from here on the code says nothing of the image
BLOCK = 10_000  # images at once


class Mean(NamedTuple):
    """A mean over seeds with its 95 % interval (Student's t), NaN below two seeds."""

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
    """Mean, low, high and number of seeds of a variable, along its other dims; NaN are left out.

    mean -/+ t(0.975, n - 1) s / sqrt(n), s the standard deviation over the n seeds that are not NaN; no interval below
    two. Raises KeyError if there is no such variable.
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
    """A sweep and the means over seeds that its figures show: NAME_mean, NAME_mean_low, NAME_mean_high, NAME_median.

    And how many of a pair's seeds are `collapsed`, where the loss without a code is known.
    """
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
    """(tf, tb, seed): whether a training ended with at least 98 % of the loss without a code (`loss_without_code`).

    Its code then says nothing of the image, whatever the KL term: all images share one code, or the code is noise.
    False of failed trainings, and everywhere where the loss without a code is not known.
    """
    return ds[FINAL] >= COLLAPSED * ds.attrs.get(WITHOUT_CODE, np.inf)


def loss_without_code(likelihood: likelihoods.Likelihood, images: Images, validation: Images) -> float:
    """The mean validation loss of a decoder that shows every image the mean of the training images.

    No decoder that gets no code does better than the mean of its training images. Of a Bernoulli likelihood the mean
    of N images is (sum + 1/2)/(N + 1), since a pixel that is 0 in all of them would have an infinite loss at 1.
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

    `diagonal`: among the pairs with tf = tb. The interval is the pair's own: that it was chosen for being the lowest,
    which makes it look better than it is, is not in it.
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
