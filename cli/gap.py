"""gradlab gap: the gradient gap between relaxed and discrete forward pass."""

from __future__ import annotations

import click

from gradlab.methods import Compute

from .measuring import measured_options, output_options
from .method_options import method_options
from .options import seed_option, temperature_options


@click.command()
@measured_options(temperature_options("0.3:3.0:10", "0.3,0.6,0.9,1.2,1.6,2,3,4,5,6"), images=64)
@click.option(
    "--draws", type=click.IntRange(min=2), default=64, show_default=True, help="Noise arrays, shared by all points."
)
@method_options(Compute)
@seed_option
@output_options("gap.h5")
def gap(measured, tf, tb, draws, values, seed):
    """Gradient gap between the relaxed and the discrete forward pass of Decoupled ST-GS (figure 5).

    It can be measured for code spaces of any size. The gap is not the bias: neither gradient is the exact one. The raw
    gap contains the factor 1/tb, whatever the two directions are; look at the relative gap and the cosine as well.

    Without CHECKPOINT, the bundled binary autoencoder (2,048 units) is measured on bundled images. Several checkpoints,
    for example of one training, go into one file, along the dim `checkpoint`. If such a command is killed, the same
    command continues. After Ctrl-C or a failure, --out contains what was measured, unless it holds complete results of
    an earlier measurement. More backward temperatures cost almost no time.

    \b
    Examples:
      gradlab gap
      gradlab gap ae.safetensors --data fashion-mnist --tf 1.0 --tb 0.5,1,2,4
      gradlab gap ae-epoch*.safetensors --tf 0.3 --tb 3 --out gap-over-training.h5
      gradlab gap ae-epoch*.safetensors --scheduler tcp://host:8786
      gradlab gap --model my_module:model --weights mine.pt --observations x.npy --tf 1 --tb 0.5,1,2
    """
    import functools

    import gradlab

    measured.by("gap", functools.partial(gradlab.gap, draws=draws, seed=seed), tf, tb, values)
