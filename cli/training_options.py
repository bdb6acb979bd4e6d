"""What `gradlab train` and `gradlab sweep` share: options of models and settings, and the settings made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from gradlab.choices import PRESETS, TRACKED
from gradlab.fields import options
from gradlab.settings import Settings, vae_lr

from .method_options import option_of
from .options import Decorator, device_option, json_option, tf32_option, together

OF_CELLS = tuple(option.name for option in options(Settings) if option.name not in ("tf", "tb", "seed"))
OF_TRAINING = tuple(option.name for option in options(Settings))
OF_TRACKING = ("track_every", "track_images", "track_draws")

vae_options = together(
    click.option("--latents", type=click.IntRange(min=1), default=4, show_default=True, help="Latents per image."),
    click.option(
        "--categories", type=click.IntRange(min=2), default=8, show_default=True, help="Categories per latent."
    ),
    click.option(
        "--top-k",
        type=click.IntRange(min=1),
        help="Each latent takes this number of its categories: k-hot codes.  [default: one, one-hot codes]",
    ),
)
autoencoder_options = together(
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        default="small",
        show_default=True,
        help="small: width 16, depth 2, half a minute per epoch of MNIST on two cores; large: width 128, depth 4, for a"
        " GPU.",
    ),
    click.option(
        "--width", type=click.IntRange(min=1), help="Channels at half the resolution.  [default: the preset's]"
    ),
    click.option("--depth", type=click.IntRange(min=0), help="Residual blocks per side.  [default: the preset's]"),
)
tracking_options = together(
    click.option(
        "--track",
        type=click.Choice(TRACKED),
        multiple=True,
        help="Measure this during training, into OUT.bias.h5 or OUT.gap.h5. May be repeated.",
    ),
    click.option(
        "--track-every", type=click.IntRange(min=1), help="Epochs between measurements of --track.  [default: 10]"
    ),
    click.option(
        "--track-images", type=click.IntRange(min=1), help="Number of test images for --track.  [default: 100]"
    ),
    click.option(
        "--track-draws", type=click.IntRange(min=2), help="Number of draws for --track.  [default: 1,024; 64 for gap]"
    ),
)


where_options = together(device_option, tf32_option, json_option)


def settings_options(defaults: Settings, names: Sequence[str], lr: str = "") -> Decorator:
    """The options of some settings, with the defaults of a model; `lr` says which learning rates, if several."""
    made = {name: {"default": getattr(defaults, name)} for name in names}
    if lr:
        made["lr"] = {"default": None, "help": f"Learning rate.  [default: {lr}]"}
    return together(*(option_of(Settings, name, **changed) for name, changed in made.items()))


def vae_settings(latents: int, categories: int, top_k: int | None, lr: float | None) -> dict[str, Any]:
    """The settings of a categorical VAE, but what options of all trainings say."""
    config = {"latents": latents, "categories": categories} | ({} if top_k is None else {"top_k": top_k})
    return {"config": config, "lr": vae_lr(latents, categories) if lr is None else lr}


def autoencoder_settings(preset: str, width: int | None, depth: int | None) -> dict[str, Any]:
    """The settings of a binary autoencoder, likewise."""
    chosen = {name: size for name, size in (("width", width), ("depth", depth)) if size is not None}
    return {"config": PRESETS[preset] | chosen}


def check_tracking(track: Sequence[str], tracking: Mapping[str, Any]) -> dict[str, Any]:
    """The options of --track that are given. Raises UsageError if --track is not."""
    given = {name: value for name, value in tracking.items() if value is not None}
    for name in () if track else given:
        raise click.UsageError(f"--{name.replace('_', '-')}: needs --track")
    return given
