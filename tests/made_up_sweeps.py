"""Sweeps whose losses are known."""

import numpy as np
import xarray as xr

from gradlab.attributes import flattened

TEMPERATURES = (0.3, 1.0, 3.0)


def planted(loss, noise=0.1, count=5, seed=0):
    """A sweep whose losses are loss(tf, tb), plus noise common to all pairs of a seed, plus a tenth of it per cell."""
    rng = np.random.default_rng(seed)
    mean = np.array([[loss(tf, tb) for tb in TEMPERATURES] for tf in TEMPERATURES], float)
    values = mean[..., None] + noise * rng.normal(size=count) + 0.1 * noise * rng.normal(size=(3, 3, count))
    return swept(values, TEMPERATURES, TEMPERATURES)


def swept(values, tf, tb, **about):
    """A sweep with these final losses (tf, tb, seed), by its attributes one at the paper's budget."""
    coordinates = {"tf": list(tf), "tb": list(tb), "seed": range(values.shape[-1])}
    status = np.where(np.isnan(values), "failed", "done").astype(object)
    dims = ("tf", "tb", "seed")
    settings = {"epochs": 160, "kl": "model", "config": {}} | about.pop("settings", {})
    about = {"unit": "nats", "images": 60_000, "validation_images": 10_000, "data": "mnist, train split"} | about
    ds = xr.Dataset({"final_validation_loss": (dims, values), "status": (dims, status)}, coordinates)
    return ds.assign_attrs(about | flattened("settings", settings))
