"""gradlab train: built-in models on image data."""

from __future__ import annotations

import os

import click

from gradlab.settings import BINARY_AUTOENCODER, Settings

from .method_options import resolve_device
from .options import Decorator, data_options, together
from .paths import check_no_input, check_writable, data_files
from .training_options import (
    OF_TRACKING,
    OF_TRAINING,
    autoencoder_options,
    autoencoder_settings,
    check_tracking,
    settings_options,
    tracking_options,
    vae_options,
    vae_settings,
    where_options,
)


def output_options(out: str) -> Decorator:
    """What a training leaves behind, and where it runs."""
    return together(
        click.option("--out", type=click.Path(dir_okay=False), default=out, show_default=True, help="Checkpoint file."),
        click.option("--overwrite", is_flag=True, help="Replace the model in --out."),
        click.option(
            "--resume",
            is_flag=False,
            flag_value="yes",
            type=click.Choice(["yes", "auto"]),
            metavar="[auto]",
            help="Continue the interrupted training of --out. auto: continue if it was interrupted, begin if there is"
            " none, do nothing if it is finished, so that a job that is started again needs no other command.",
        ),
        click.option("--keep-every", type=click.IntRange(min=1), help="Also keep the model of every N-th epoch."),
        tracking_options,
        where_options,
    )


@click.group()
def train() -> None:
    """Train a model, for example to measure it with `gradlab bias` or `gradlab gap`.

    \b
    Examples:
      gradlab train vae --out vae.safetensors
      gradlab train binary-ae --data fashion-mnist --out ae.safetensors

    Temperatures may follow a schedule (--tf 1:0.3 --tb 1:2:cosine), and --track measures bias or gap during training.
    Ctrl-C, SIGTERM and SIGUSR1 save the state. --resume continues from it, to the same weights as a run without
    interruption. On a cluster, --resume auto lets the same command begin or continue.
    """


@train.command()
@vae_options
@data_options("mnist")
@settings_options(Settings(), OF_TRAINING, lr="5e-4; 7e-4 for 16 categories x 12 latents")
@output_options("vae.safetensors")
def vae(latents, categories, top_k, lr, **others) -> None:
    """Train a categorical VAE with the paper's settings.

    \b
    Example: the bundled model (about 25 minutes on two cores):
      gradlab data fetch mnist
      gradlab train vae --tf 1.6 --tb 1.3 --out vae-8x4-mnist.safetensors
    Example: the large one:
      gradlab train vae --categories 16 --latents 12 --out vae-16x12.safetensors
    Example: two of the eight categories of each latent:
      gradlab train vae --top-k 2 --estimator rloo --out vae-2-of-8x4.safetensors
    Example: bias at epoch 0, every fifth epoch and the last, into vae.bias.h5:
      gradlab train vae --epochs 20 --track bias --track-every 5 --out vae.safetensors

    Ctrl-C, SIGTERM and SIGUSR1 save the state. --resume continues from it, to the same weights as a run without
    interruption. On a cluster, --resume auto lets the same command begin or continue.
    """
    _train(Settings(), **vae_settings(latents, categories, top_k, lr), **others)


@train.command("binary-ae")
@autoencoder_options
@data_options("mnist")
@settings_options(BINARY_AUTOENCODER, OF_TRAINING)
@output_options("binary-ae.safetensors")
def binary_ae(preset, width, depth, **others) -> None:
    """Train a binary autoencoder: convolutional, residual, 8 x 8 x 32 units, mean squared error per pixel.

    The paper gives no width or depth and trains for 100 epochs. Images of 28 x 28 pixels are padded with zeros to
    32 x 32, two pixels per side, and the output is cropped.

    \b
    Examples:
      gradlab train binary-ae --data mnist
      gradlab train binary-ae --data cifar10 --preset large --epochs 100 --out ae-cifar10.safetensors
      gradlab train binary-ae --data cifar10 --tf 1:0.3 --tb 1:2:cosine --track gap --out annealed.safetensors

    Ctrl-C, SIGTERM and SIGUSR1 save the state. --resume continues from it, to the same weights as a run without
    interruption. On a cluster, --resume auto lets the same command begin or continue.
    """
    _train(BINARY_AUTOENCODER, **autoencoder_settings(preset, width, depth), **others)


def _train(
    defaults, config, *, data, data_dir, out, overwrite, resume, keep_every, device, as_json, track, tf32, **others
) -> None:
    import dataclasses

    from gradlab import datasets, training
    from gradlab.training.loop import kept_path

    from . import output

    if overwrite and resume == "auto":
        raise click.UsageError("--overwrite: starts over, and --resume auto does not; give one of them")
    tracking = check_tracking(track, {name: others.pop(name) for name in OF_TRACKING})
    images = datasets.load(data, "train", data_dir)
    config = config | {"image_shape": list(images.pixels.shape[1:])}
    outputs = [out, *(str(training.track_path(out, kind)) for kind in track)]
    epochs = range(keep_every, others["epochs"] + 1, keep_every) if keep_every else ()
    outputs += [str(kept_path(out, epoch)) for epoch in epochs]
    check_no_input([*outputs, str(training.resume_path(out))], data_files(data, data_dir))
    check_writable(out, "CHECKPOINT")
    there = [path for path in outputs if os.path.exists(path)]
    if there and not (resume or overwrite or training.resume_path(out).exists()):
        raise FileExistsError(f"{there[0]}: file exists; --overwrite replaces it")
    before = _stamp(out)
    model = training.train(
        dataclasses.replace(defaults, config=config, **others),
        images,
        datasets.load(data, "test", data_dir),
        out,
        resume="auto" if resume == "auto" else resume is not None,
        keep_every=keep_every or 0,
        device=resolve_device(device),
        progress=True,
        tf32=tf32,
        track=track,
        **tracking,
    )
    if finished := _stamp(out) == before:
        output.say(f"{out}: this training is finished; nothing is left to do", err=True)
    output.training(model, out, as_json, None if finished else there)
    for kind in () if as_json or finished else dict.fromkeys(track):
        output.wrote(str(training.track_path(out, kind)), there)


def _stamp(path: str) -> tuple[int, int] | None:
    """What changes when a file is written; None if there is none."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns
