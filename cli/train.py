"""gradlab train: built-in models on image data."""

from __future__ import annotations

import click

from .options import check_writable, data_dir_option, device_option, json_option, resolve_device, seed_option


@click.group()
def train() -> None:
    """Train a model, to be measured with `gradlab bias`.

    \b
    Example:
      gradlab train vae --out vae.safetensors
    """


@train.command()
@click.option("--data", default="mnist", show_default=True, help="mnist, fashion-mnist, or a folder of IDX files.")
@data_dir_option
@click.option("--latents", type=click.IntRange(min=1), default=4, show_default=True, help="Latents per image.")
@click.option("--categories", type=click.IntRange(min=2), default=8, show_default=True, help="Categories per latent.")
@click.option("--estimator", default="decoupled-st-gs", show_default=True, help="See `gradlab estimators`.")
@click.option("--tf", type=float, default=1.6, show_default=True, help="Forward temperature.")
@click.option("--tb", type=float, default=1.3, show_default=True, help="Backward temperature.")
@click.option("--epochs", type=click.IntRange(min=1), default=160, show_default=True, help="Passes over the images.")
@click.option("--batch-size", type=click.IntRange(min=1), default=100, show_default=True, help="Images per step.")
@click.option("--lr", type=float, help="Learning rate of RAdam.  [default: 5e-4; 7e-4 for 16 categories x 12 latents]")
@seed_option
@click.option(
    "--out", type=click.Path(dir_okay=False), default="vae.safetensors", show_default=True, help="Checkpoint file."
)
@click.option("--resume", is_flag=True, help="Go on with the interrupted training of --out.")
@click.option("--keep-every", type=click.IntRange(min=1), help="Also keep the model of every N-th epoch.")
@device_option
@json_option
def vae(data, data_dir, latents, categories, lr, out, resume, keep_every, device, as_json, **settings) -> None:
    """Train a categorical VAE with the paper's settings.

    \b
    Example, the bundled model (some 25 minutes on two cores):
      gradlab data fetch mnist
      gradlab train vae --tf 1.6 --tb 1.3 --out vae-8x4-mnist.safetensors
    Example, the large one:
      gradlab train vae --categories 16 --latents 12 --out vae-16x12.safetensors

    Ctrl-C leaves a state that --resume goes on from, to the same weights as an unbroken run.
    """
    from gradlab import datasets, training

    from . import output

    if lr is None:
        lr = 7e-4 if (categories, latents) == (16, 12) else 5e-4
    config = {"latents": latents, "categories": categories}
    images = datasets.load(data, "train", data_dir)
    config["image_shape"] = list(images.pixels.shape[1:])
    check_writable(out)
    model = training.train(
        training.Settings(config=config, lr=lr, **settings),
        images,
        datasets.load(data, "test", data_dir),
        out,
        resume=resume,
        keep_every=keep_every or 0,
        device=resolve_device(device),
        shown=True,
    )
    output.training(model, out, as_json)
