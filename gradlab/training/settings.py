"""The settings of a training. Together with the images they determine the final weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import errors, estimators, networks, schedules

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"radam": torch.optim.RAdam, "adam": torch.optim.Adam}
KLS = ("none", "model", "sampled")  # terms of the loss


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a training. The defaults are those of the paper's 8x4 VAE (appendix A.2).

    `tf` and `tb` are numbers, or schedules like "1:0.3" and "1:0.3:cosine" (see gradlab.schedules) from the first to
    the last step. `kl` is the KL term of the loss: "model" for KL(softmax(l) || uniform), "sampled" for
    KL(softmax(l/tf) || uniform) of the distribution that codes are sampled from, or "none". True and False mean "model"
    and "none". Raises ValueError for invalid values.

    Examples
    --------
    >>> settings = gradlab.training.Settings(tf="1:0.3", tb=1.3, epochs=40, seed=3)
    >>> settings.tf, settings.batch_size
    ('1:0.3', 100)
    """

    architecture: str = "categorical-vae"
    config: dict[str, Any] = field(default_factory=lambda: {"latents": 4, "categories": 8})
    estimator: str = "decoupled-st-gs"
    tf: float | str = 1.6
    tb: float | str = 1.3
    kl: str = "model"
    optimizer: str = "radam"
    lr: float = 5e-4
    batch_size: int = 100
    epochs: int = 160
    seed: int = 0

    def __post_init__(self):
        checked = {
            "tf": schedules.setting("tf", self.tf),
            "tb": schedules.setting("tb", self.tb),
            "optimizer": errors.choice("optimizer", self.optimizer, list(OPTIMIZERS)),
            "kl": errors.choice("kl", ("none", "model")[self.kl] if isinstance(self.kl, bool) else self.kl, KLS),
            "architecture": errors.choice("architecture", self.architecture, list(networks.ARCHITECTURES)),
            "batch_size": errors.whole_number("batch_size", self.batch_size, 1),
            "epochs": errors.whole_number("epochs", self.epochs, 1),
            "seed": errors.whole_number("seed", self.seed, 0),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        estimators.parse(self.estimator)  # a name, or name:key=value
        if "tf=" in self.estimator or "tb=" in self.estimator:
            raise ValueError(f"estimator: expected one without temperatures (use tf and tb), got {self.estimator!r}")
        if not isinstance(self.lr, int | float) or not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr: expected a finite number above 0, got {self.lr!r}")
        if not isinstance(self.config, dict):
            raise ValueError(f"config: expected a dict of the architecture's arguments, got {self.config!r}")


# the paper's binary autoencoder (appendix A.1) at the temperatures its figure 2 found best; 20 epochs of its 100
BINARY_AUTOENCODER = Settings(
    architecture="binary-autoencoder",
    config={},
    tf=0.3,
    tb=3.0,
    kl="none",
    optimizer="adam",
    lr=3e-4,
    batch_size=64,
    epochs=20,
)
