"""gradlab train: built-in models on image data."""

from __future__ import annotations

import os

import click

from .options import (
    DATA_SETS,
    EstimatorSpec,
    check_writable,
    completes,
    data_dir_option,
    device_option,
    json_option,
    resolve_device,
    seed_option,
    tf32_option,
)

KINDS = ("bias", "gap")  # what can be tracked
KLS = ("none", "model", "sampled")  # terms of the loss
PRESETS = ("small", "large")  # of the binary autoencoder; the network defines the sizes


class ScheduleSpec(click.ParamType):
    """`1.6`, `1:0.3`, `1:0.3:cosine`: a temperature or its schedule, as stored in the settings."""

    name = "spec"

    def convert(self, value, param, ctx):
        from gradlab import schedules

        try:
            return schedules.setting(param.name, value)
        except ValueError as error:
            self.fail(str(error).removeprefix(f"{param.name}: "), param, ctx)


def training_options(tf: float, tb: float, kl: str, epochs: int, batch_size: int, lr: str, out: str):
    """The options of every training, with the defaults of a model."""
    options = [
        click.option(
            "--data",
            default="mnist",
            show_default=True,
            shell_complete=completes(DATA_SETS),
            help="See `gradlab data list`, or a folder of such files.",
        ),
        data_dir_option,
        click.option(
            "--estimator",
            type=EstimatorSpec(),
            default="decoupled-st-gs",
            show_default=True,
            help="See `gradlab estimators`.",
        ),
        click.option(
            "--tf",
            type=ScheduleSpec(),
            default=tf,
            show_default=True,
            help="Forward temperature, or its schedule over the training: 1:0.3 (linear), 1:0.3:exponential or"
            " 1:0.3:cosine.",
        ),
        click.option(
            "--tb", type=ScheduleSpec(), default=tb, show_default=True, help="Backward temperature, or its schedule."
        ),
        click.option(
            "--kl",
            type=click.Choice(KLS),
            default=kl,
            show_default=True,
            help="KL term of the loss: KL(softmax(l) || uniform) for model, KL(softmax(l/tf) || uniform) for sampled.",
        ),
        click.option(
            "--epochs", type=click.IntRange(min=1), default=epochs, show_default=True, help="Passes over the images."
        ),
        click.option(
            "--batch-size", type=click.IntRange(min=1), default=batch_size, show_default=True, help="Images per step."
        ),
        click.option("--lr", type=float, help=f"Learning rate.  [default: {lr}]"),
        seed_option,
        click.option("--out", type=click.Path(dir_okay=False), default=out, show_default=True, help="Checkpoint file."),
        click.option("--overwrite", is_flag=True, help="Replace the model in --out."),
        click.option("--resume", is_flag=True, help="Continue the interrupted training of --out."),
        click.option("--keep-every", type=click.IntRange(min=1), help="Also keep the model of every N-th epoch."),
        click.option(
            "--track",
            type=click.Choice(KINDS),
            multiple=True,
            help="Measure this during training, into OUT.bias.h5 or OUT.gap.h5. May be repeated.",
        ),
        click.option(
            "--every",
            "track_every",
            type=click.IntRange(min=1),
            help="Epochs between measurements of --track.  [default: 10]",
        ),
        click.option(
            "--track-images", type=click.IntRange(min=1), help="Number of test images for --track.  [default: 100]"
        ),
        click.option(
            "--track-draws",
            type=click.IntRange(min=2),
            help="Number of draws for --track.  [default: 1,024; 64 for gap]",
        ),
        device_option,
        tf32_option,
        json_option,
    ]

    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group()
def train() -> None:
    """Train a model, for example to measure it with `gradlab bias` or `gradlab gap`.

    \b
    Examples:
      gradlab train vae --out vae.safetensors
      gradlab train binary-ae --data fashion-mnist --out ae.safetensors

    Temperatures may follow a schedule (--tf 1:0.3 --tb 1:2:cosine), and --track measures bias or gap during training.
    Ctrl-C saves the state. --resume continues from it, to the same weights as a run without interruption.
    """


@train.command()
@click.option("--latents", type=click.IntRange(min=1), default=4, show_default=True, help="Latents per image.")
@click.option("--categories", type=click.IntRange(min=2), default=8, show_default=True, help="Categories per latent.")
@training_options(1.6, 1.3, "model", 160, 100, "5e-4; 7e-4 for 16 categories x 12 latents", "vae.safetensors")
def vae(latents, categories, lr, **others) -> None:
    """Train a categorical VAE with the paper's settings.

    \b
    Example: the bundled model (about 25 minutes on two cores):
      gradlab data fetch mnist
      gradlab train vae --tf 1.6 --tb 1.3 --out vae-8x4-mnist.safetensors
    Example: the large one:
      gradlab train vae --categories 16 --latents 12 --out vae-16x12.safetensors
    Example: bias at epoch 0, every fifth epoch and the last, into vae.bias.h5:
      gradlab train vae --epochs 20 --track bias --every 5 --out vae.safetensors

    Ctrl-C saves the state. --resume continues from it, to the same weights as a run without interruption.
    """
    from gradlab.training import Settings

    if lr is None:
        lr = 7e-4 if (categories, latents) == (16, 12) else 5e-4
    _train(Settings(), {"latents": latents, "categories": categories}, lr=lr, **others)


@train.command("binary-ae")
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    default="small",
    show_default=True,
    help="small: width 16, depth 2, half a minute per epoch of MNIST on two cores; large: width 128, depth 4, for a"
    " GPU.",
)
@click.option("--width", type=click.IntRange(min=1), help="Channels at half the resolution.  [default: the preset's]")
@click.option("--depth", type=click.IntRange(min=0), help="Residual blocks per side.  [default: the preset's]")
@training_options(0.3, 3.0, "none", 20, 64, "3e-4", "binary-ae.safetensors")
def binary_ae(preset, width, depth, lr, **others) -> None:
    """Train a binary autoencoder: convolutional, residual, 8 x 8 x 32 units, mean squared error per pixel.

    The paper gives no width or depth and trains for 100 epochs. Images of 28 x 28 pixels are padded with zeros to
    32 x 32, two pixels per side, and the output is cropped.

    \b
    Examples:
      gradlab train binary-ae --data mnist
      gradlab train binary-ae --data cifar10 --preset large --epochs 100 --out ae-cifar10.safetensors
      gradlab train binary-ae --data cifar10 --tf 1:0.3 --tb 1:2:cosine --track gap --out annealed.safetensors

    Ctrl-C saves the state. --resume continues from it, to the same weights as a run without interruption.
    """
    from gradlab.networks.binary_autoencoder import PRESETS as SIZES
    from gradlab.training import BINARY_AUTOENCODER

    chosen = {name: size for name, size in (("width", width), ("depth", depth)) if size is not None}
    _train(BINARY_AUTOENCODER, SIZES[preset] | chosen, lr=BINARY_AUTOENCODER.lr if lr is None else lr, **others)


def _train(
    defaults, config, *, data, data_dir, out, overwrite, resume, keep_every, device, as_json, track, tf32, **others
) -> None:
    import dataclasses

    from gradlab import datasets, training

    from . import output

    tracking = {name: others.pop(name) for name in ("track_every", "track_images", "track_draws")}
    tracking = {name: value for name, value in tracking.items() if value is not None}
    if tracking and not track:
        raise click.UsageError(f"{_option(next(iter(tracking)))}: needs --track")
    images = datasets.load(data, "train", data_dir)
    config = config | {"image_shape": list(images.pixels.shape[1:])}
    check_writable(out)
    outputs = [out, *(str(training.track_path(out, kind)) for kind in track)]
    there = [path for path in outputs if os.path.exists(path)]
    if there and not (resume or overwrite or training.resume_path(out).exists()):
        raise FileExistsError(f"{there[0]}: file exists; --overwrite replaces it")
    model = training.train(
        dataclasses.replace(defaults, config=config, **others),
        images,
        datasets.load(data, "test", data_dir),
        out,
        resume=resume,
        keep_every=keep_every or 0,
        device=resolve_device(device),
        progress=True,
        tf32=tf32,
        track=track,
        **tracking,
    )
    output.training(model, out, as_json, there)
    for kind in () if as_json else dict.fromkeys(track):
        output.wrote(str(training.track_path(out, kind)), there)


def _option(name: str) -> str:
    return "--every" if name == "track_every" else f"--{name.replace('_', '-')}"
