"""The picture of Getting started: temperatures, the exact gradient, bias and variance, for two binary units.

    python -m examples.idea PATH.png

All is computed by gradlab, for a loss of two units that is small enough to enumerate by hand.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import gradlab

LOGITS = (0.7, -0.4)
DRAWS, AVERAGED, SHOWN, SEED = 2_000_000, 10, 250, 0
BLUE, RED, GREY = "#1f5fa8", "#c23b3b", "#7a8594"


class Loss(nn.Module):
    """f(z) = 3 (z1 - 0.6)^2 + 2 (z1 + z2 - 1.4)^2: not linear, and not symmetric in the units."""

    def forward(self, z: Tensor) -> Tensor:
        return (3 * (z[:, 0] - 0.6) ** 2 + 2 * (z[:, 0] + z[:, 1] - 1.4) ** 2)[:, None]


def model() -> gradlab.LatentModel:
    """One example, whose encoder is its logits."""
    return gradlab.LatentModel(
        nn.Identity(), Loss(), latents=2, binary=True, likelihood=lambda parameters, x: parameters[:, 0]
    )


def estimates(name: str, **temperatures: float) -> np.ndarray:
    """Estimates of the gradient, each the mean of AVERAGED draws, (estimate, unit)."""
    estimator, of = gradlab.estimators.parse(name).__class__(**temperatures), model()
    logits = torch.tensor(LOGITS, dtype=torch.float64).expand(DRAWS, 2).contiguous()
    generator = torch.Generator().manual_seed(SEED)
    shape = (estimator.noise_arrays, *logits.shape)
    noise = of.kind.noise(shape, dtype=logits.dtype, generator=generator)
    points = estimator.points(of.kind, logits, noise)
    x = torch.zeros(len(points) * DRAWS, 1, dtype=torch.float64)
    loss, derivative = of.losses_and_derivatives(points.flatten(0, 1), x)
    shaped = loss.reshape(points.shape[:2]), derivative.reshape(points.shape)
    single = estimator.estimate(of.kind, logits, noise, points, *shaped)
    return single.reshape(-1, AVERAGED, 2).mean(1).numpy()


def exact() -> np.ndarray:
    x = torch.tensor([LOGITS], dtype=torch.float64)
    return gradlab.exact_gradient(model(), x, tf=1.0)[0].numpy()


def expected_loss(first: np.ndarray) -> np.ndarray:
    """E f as a function of the first logit, by enumeration."""
    values = {}
    for z in ((0, 0), (0, 1), (1, 0), (1, 1)):
        values[z] = Loss()(torch.tensor([z], dtype=torch.float64)).item()
    p, q = 1 / (1 + np.exp(-first)), 1 / (1 + np.exp(-LOGITS[1]))
    return sum(f * (p if a else 1 - p) * (q if b else 1 - q) for (a, b), f in values.items())


def draw() -> Figure:
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    top, below = figure.subfigures(2, 1, height_ratios=(1, 1.15))
    law, slope, loss = top.subplots(1, 3)
    _forward(law)
    _backward(slope)
    _exact(loss)
    clouds = [
        ("rloo, tf = 1", estimates("rloo", tf=1.0)),
        ("decoupled-st-gs, tf = 1, tb = 0.5", estimates("decoupled-st-gs", tf=1.0, tb=0.5)),
        ("decoupled-st-gs, tf = 1, tb = 2", estimates("decoupled-st-gs", tf=1.0, tb=2.0)),
    ]
    panels = below.subplots(1, 3, sharex=True, sharey=True)
    for ax, (title, cloud) in zip(panels, clouds, strict=True):
        _cloud(ax, title, cloud)
    below.supxlabel("estimate of the gradient, first unit", fontsize=9)
    panels[0].set_ylabel("second unit", fontsize=9)
    for ax in (law, slope, loss, *panels):
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _forward(ax) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -0.5])
    for i, (tf, colour) in enumerate(((0.4, BLUE), (1.0, GREY), (3.0, RED))):
        p = torch.softmax(logits / tf, -1).numpy()
        ax.bar(np.arange(4) + 0.27 * (i - 1), p, 0.25, color=colour, label=f"tf = {tf:g}")
    ax.set_title("Forward temperature: which code is drawn", fontsize=10)
    ax.set_xticks(range(4), [f"l = {v:g}" for v in logits.tolist()])
    ax.set_ylabel("softmax(l / tf)", fontsize=9)
    ax.legend(fontsize=8, frameon=False)


def _backward(ax) -> None:
    l, noise = np.linspace(-4, 4, 200), 0.6
    ax.plot(l, (l + noise > 0).astype(float), color="black", lw=1.4, label="code z that the decoder gets (tf = 1)")
    for tb, colour in ((0.4, BLUE), (1.0, GREY), (3.0, RED)):
        ax.plot(l, 1 / (1 + np.exp(-(l / tb + noise))), color=colour, lw=1.4, label=f"soft code q at tb = {tb:g}")
    ax.set_title("Backward temperature: whose slope is the gradient", fontsize=10)
    ax.set_xlabel("logit of a unit, one noise value", fontsize=9)
    ax.set_ylim(-0.08, 1.75)
    ax.set_yticks((0, 0.5, 1))
    ax.legend(fontsize=8, frameon=False, loc="upper left")


def _exact(ax) -> None:
    l = np.linspace(-4, 4, 200)
    ax.plot(l, expected_loss(l), color="black", lw=1.4)
    here, g = LOGITS[0], exact()[0]
    near = np.array([here - 1.6, here + 1.6])
    ax.plot(near, expected_loss(np.array([here])) + g * (near - here), color=BLUE, lw=2)
    ax.plot(here, expected_loss(np.array([here])), "o", color=BLUE, ms=5)
    ax.set_title("Exact gradient: slope of the mean loss", fontsize=10)
    ax.set_xlabel("logit of the first unit", fontsize=9)
    ax.set_ylabel("mean loss over all codes", fontsize=9)


def _cloud(ax, title: str, cloud: np.ndarray) -> None:
    g, mean = exact(), cloud.mean(0)
    bias = np.linalg.norm(mean - g) / np.linalg.norm(g)
    std = np.sqrt(cloud.var(0).sum()) / np.linalg.norm(g)
    ax.plot(*cloud[:SHOWN].T, ".", color=GREY, ms=3, alpha=0.5, label=f"means of {AVERAGED} draws")
    for to, colour, label, width in ((g, BLUE, "exact gradient", 4.0), (mean, RED, "mean estimate", 1.6)):
        ax.plot([0, to[0]], [0, to[1]], color=colour, lw=width, marker="o", ms=2.2 * width, markevery=[1], label=label)
    ax.plot(*np.stack([g, mean]).T, ":", color="black", lw=1.6, label="bias")
    ax.set_title(f"{title}\nrelative bias {bias:.2f}, relative std {std:.2f}", fontsize=10)
    ax.set(xlim=(-2.2, 0.9), ylim=(-1.15, 0.95))
    ax.axhline(0, color=GREY, lw=0.4)
    ax.axvline(0, color=GREY, lw=0.4)
    if title.startswith("rloo"):
        ax.legend(fontsize=8, frameon=False, loc="upper left")


if __name__ == "__main__":
    gradlab.plots.save(draw(), sys.argv[1])
