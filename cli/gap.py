"""gradlab gap: the gradient gap between relaxed and discrete forward pass."""

from __future__ import annotations

import click

from .measuring import check_usage, measure, observed
from .options import (
    TemperatureSpec,
    data_dir_option,
    data_option,
    device_option,
    images_option,
    json_option,
    memory_option,
    out_option,
    own_model_options,
    plot_option,
    resolve_device,
    seed_option,
    tf32_option,
    warnings_as_lines,
)


@click.command()
@click.argument("checkpoints", nargs=-1, type=click.Path(dir_okay=False), metavar="[CHECKPOINT]...")
@click.option(
    "--tf",
    type=TemperatureSpec(),
    default="0.3:3.0:10",
    show_default=True,
    help="Forward temperatures: 1.6, or 0.5,1.0,1.6 or 0.3:3.0:10.",
)
@click.option(
    "--tb",
    type=TemperatureSpec(),
    default="0.3,0.6,0.9,1.2,1.6,2,3,4,5,6",
    show_default=True,
    help="Backward temperatures, likewise.",
)
@click.option(
    "--draws", type=click.IntRange(min=2), default=64, show_default=True, help="Noise arrays, shared by all points."
)
@images_option(64)
@data_option
@data_dir_option
@own_model_options
@memory_option
@tf32_option
@device_option
@seed_option
@out_option("gap.h5")
@plot_option
@json_option
def gap(checkpoints, own, tf, tb, draws, images, data, data_dir, memory, tf32, device, seed, out, plot, as_json):
    """Gradient gap between the relaxed and the discrete forward pass of Decoupled ST-GS (figure 5).

    For latents too large to enumerate, and any others. The gap is no bias: neither gradient is the true one. The raw
    gap shrinks like 1/tb whatever the alignment; see the relative gap and the cosine.

    Without CHECKPOINT the bundled binary autoencoder (2,048 units) is measured on bundled images. Several checkpoints
    (a training run's, say) go into one file, along the dim `checkpoint`. Backward temperatures cost next to nothing.

    \b
    Examples:
      gradlab gap
      gradlab gap ae.safetensors --data fashion-mnist --tf 1.0 --tb 0.5,1,2,4
      gradlab gap ae-epoch*.safetensors --tf 0.3 --tb 3 --out gap-over-training.h5
      gradlab gap --model my_module:model --weights mine.pt --observations x.npy --tf 1 --tb 0.5,1,2
    """
    import gradlab
    from gradlab.checkpoints import BUNDLED_LARGE

    check_usage(checkpoints, own, out, plot)
    measured_on = observed(own, data, data_dir, images)
    place = resolve_device(device)

    def analysis(model, x):
        return gradlab.gap(
            model,
            x,
            tf,
            tb,
            draws=draws,
            seed=seed,
            compute=gradlab.Compute(device=place, memory=memory and memory * 2**20, tf32=tf32, progress=True),
        )

    with warnings_as_lines():
        measure(checkpoints, own, BUNDLED_LARGE, measured_on, analysis, out, plot, as_json)
