"""The settings of a training. Together with the images they determine the final weights. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import choices, errors, specs
from .fields import Checked, option


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
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
    estimator: str = option("decoupled-st-gs", "See `gradlab estimators`.", kind="estimator")
    tf: float | str = option(
        1.6,
        "Forward temperature, or its schedule over the training: 1:0.3 (linear), 1:0.3:exponential or 1:0.3:cosine.",
        kind="schedule",
    )
    tb: float | str = option(1.3, "Backward temperature, or its schedule.", kind="schedule")
    kl: str = option(
        "model",
        "KL term of the loss: KL(softmax(l) || uniform) for model, KL(softmax(l/tf) || uniform) for sampled.",
        choices.KL_TERMS,
    )
    optimizer: str = option("radam", "Optimizer, of torch.optim.", tuple(choices.OPTIMIZERS))
    lr: float = option(5e-4, "Learning rate.")
    batch_size: int = option(100, "Images per step.", at_least=1)
    epochs: int = option(160, "Passes over the images.", at_least=1)
    seed: int = option(0, "Seed of all noise.", at_least=0)

    def __post_init__(self) -> None:
        if isinstance(self.kl, bool):
            object.__setattr__(self, "kl", ("none", "model")[self.kl])
        super().__post_init__()
        # what is not listed is looked up, which imports torch
        if self.architecture not in choices.ARCHITECTURES:
            from . import networks

            errors.choice("architecture", self.architecture, list(networks.ARCHITECTURES))
        if self.estimator not in choices.ESTIMATORS:
            from . import estimators

            estimators.parse(self.estimator)
            estimators.dictionary.check_temperatures([self.estimator], (self.tf,), (self.tb,))
            translated = estimators.dictionary.translated(self.estimator)
            object.__setattr__(self, "estimator", specs.canonical(translated))
        if "tf=" in self.estimator or "tb=" in self.estimator:
            raise ValueError(f"estimator: expected one without temperatures (use tf and tb), got {self.estimator!r}")
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


def vae_lr(latents: int, categories: int) -> float:
    """The learning rate that the paper takes for a categorical VAE (appendix A.2)."""
    return 7e-4 if (categories, latents) == (16, 12) else 5e-4
