"""Made-up sweeps, and what their figures show."""

import itertools
import json

import numpy as np
import xarray as xr
from matplotlib.colors import to_hex

from gradlab import plots, sweeps

from .figures import curves

TFS, TBS, SEEDS = [0.3, 1.0, 1.6], [0.3, 1.0, 1.3, 3.0], 3
BEST, BLUE, RED = "#e69f00", "#0072b2", "#d55e00"
FAILED, MISSING = "failed", "missing"


def swept(tf=TFS, tb=TBS, seeds=SEEDS, epochs=10, level=90.0, spread=0.02, unit="nats", without=None, **about):
    """A sweep as gradlab.sweeps returns it; `without` is {(tf, tb, seed) by position: "failed" or "missing"}."""
    rng = np.random.default_rng(0)
    shape = (len(tf), len(tb), seeds, epochs)
    curve = level * (1 + spread * rng.uniform(size=shape)) * (1 + 1 / np.arange(1, epochs + 1))
    status = np.full(shape[:3], "done", object)
    for at, word in (without or {}).items():
        curve[at], status[at] = np.nan, word
    dims = ("tf", "tb", "seed")
    words = "validation loss after the {}epoch, one code per image, without KL"
    variables = {
        "validation_loss": ((*dims, "epoch"), curve, {"long_name": words.format(""), "units": unit}),
        "final_validation_loss": (dims, curve[..., -1], {"long_name": words.format("last "), "units": unit}),
        "status": (dims, status),
    }
    kind = object if isinstance(tf[0], str) else float
    coords = {
        "tf": ("tf", np.array(tf, kind), {"long_name": "forward temperature", "units": "1"}),
        "tb": ("tb", np.array(tb, kind), {"long_name": "backward temperature", "units": "1"}),
        "seed": np.arange(seeds),
        "epoch": ("epoch", np.arange(1, epochs + 1), {"long_name": "epoch", "units": "1"}),
    }
    settings = {"architecture": "categorical-vae", "epochs": epochs, "config": {"latents": 4, "categories": 8}}
    attributes = {
        "analysis": "sweep",
        "settings": json.dumps(settings),
        "estimator": '"decoupled-st-gs"',
        "loss": "bernoulli",
        "unit": unit,
        "data": "mnist, train split, first 500",
        "validation_data": "mnist, test split, first 200",
    }
    return sweeps.with_means(xr.Dataset(variables, coords, attributes | about))


def planted(ds, *lows):
    """The losses of these pairs lowered, in order the more."""
    values = ds["final_validation_loss"].values
    for k, (tf, tb) in enumerate(lows, 1):
        values[tf, tb] *= 1 - 0.1 * k
    return sweeps.with_means(ds)


def final(ds, part=""):
    return ds[f"final_validation_loss_mean{part}"]


def means_of(ax):
    """{colour: line of means} of a panel; legend entries, which hold nothing, left out."""
    lines = [line for line in curves(ax) if len(line.get_xdata()) and line.get_alpha() is None]
    return {to_hex(line.get_color()): line for line in lines}


def points_of(ax):
    """{colour: line of single seeds} of a panel."""
    lines = [line for line in ax.lines if line.get_alpha() == 0.4 and len(line.get_xdata())]
    return {to_hex(line.get_markerfacecolor()): line for line in lines}


# schedules


TF_TEXTS, TB_TEXTS = ["0.3", "1:0.3", "1:2:cosine"], ["3", "1:2", "1:3:exponential"]
TRAINED = {(0, 0): "tf 0.3, tb 3", (1, 1): "tf 1 → 0.3, tb 1 → 2", (0, 1): "tf 0.3, tb 1 → 2"} | {
    (2, 2): "tf 1 → 2 (cosine), tb 1 → 3 (exponential)"
}


def scheduled(**without):
    absent = {(*at, seed) for at in itertools.product(range(3), repeat=2) if at not in TRAINED for seed in range(SEEDS)}
    return swept(TF_TEXTS, TB_TEXTS, without=dict.fromkeys(absent, MISSING) | without.get("without", {}))


def rows(figure):
    return [t.get_text() for t in figure.axes[0].get_yticklabels()]


def drawn(run, monkeypatch, *arguments):
    """The figure that a `gradlab plot` writes."""
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, out, **_: figures.append(figure))
    assert run("plot", *arguments).code == 0
    return figures[0]
