"""gradlab bias: bias and variance against the exact gradient."""

from __future__ import annotations

import click

from gradlab.choices import BOTH, TARGETS, WRT
from gradlab.methods import AUTO, MOMENTS, Compute, Enumerated, Integrated, MonteCarlo, Sampled

from .measuring import measured_options, output_options
from .method_options import method_options
from .options import seed_option, temperature_options, together
from .specs import EstimatorSpec

estimator_option = click.option(
    "--estimator",
    "names",
    type=EstimatorSpec(),
    multiple=True,
    metavar="NAME",
    default=["decoupled-st-gs"],
    show_default=True,
    help="Repeat to compare, e.g. st-gs, st-gs:convention=jang or, as results print it, 'st-gs(convention=jang)'.",
)
what_options = together(
    click.option(
        "--target",
        type=click.Choice([*TARGETS, BOTH]),
        default="sampled",
        show_default=True,
        help="Law whose expected loss the exact gradient differentiates: softmax(l/tf), or softmax(l).",
    ),
    click.option(
        "--wrt",
        type=click.Choice(WRT),
        help="Variables of the gradients: the logits, or the encoder's parameters, tensor by tensor, of the mean over"
        " images, with one pass through the encoder per draw. A Program"
        " states its own variables.  [default: logits]",
    ),
    click.option(
        "--kl", is_flag=True, help="Add the gradient of the KL term to the estimates and to the exact gradient."
    ),
)
how_options = together(
    click.option(
        "--moments",
        type=click.Choice(list(MOMENTS)),
        default="monte-carlo",
        show_default=True,
        help="Mean and variance of the estimates: monte-carlo, from draws; exact, by enumeration and integrals over the"
        " noise, with their numerical error.",
    ),
    click.option(
        "--reference",
        type=EstimatorSpec(AUTO, "exact"),
        default="auto",
        show_default=True,
        metavar="NAME",
        help="What estimates are compared with: exact, the enumerated gradient; an unbiased estimator, such as rloo,"
        " disarm or arms:n=4; auto: exact if the code space is small enough, else the unbiased estimator with the"
        " smallest variance. With auto, an option that belongs to one of the two selects it.",
    ),
    method_options(MonteCarlo, Integrated, Enumerated, Sampled, Compute),
)


@click.command()
@measured_options(temperature_options("1.6", "1.3"), images=100)
@click.option(
    "--sweep",
    type=click.Choice(["cross", "grid", "none"]),
    help="cross: also 0.3 to 3.0 along each temperature through the one point given (figure 6); grid: every pair of"
    " these; none: the pairs given.  [default: cross for one point, else none]",
)
@estimator_option
@what_options
@how_options
@seed_option
@output_options("bias.h5")
def bias(measured, tf, tb, sweep, names, moments, reference, values, **what):
    """Bias and variance of gradient estimators against the exact gradient.

    Without CHECKPOINT, the bundled 8x4 VAE is measured on bundled images. Several checkpoints, for example of one
    training, go into one file, along the dim `checkpoint`. If such a command is killed, the same command continues.
    After Ctrl-C or a failure, --out contains what was measured, unless it holds complete results of an earlier
    measurement.

    \b
    Examples:
      gradlab bias --tf 1.6 --tb 1.3
      gradlab bias vae.safetensors --tf 0.3:3.0:10 --tb 0.3:3.0:10 --target both --out grid.h5
      gradlab bias --tf 1 --tb 1 --sweep none --estimator reinmax --estimator rloo:n=4 --equal-cost
      gradlab bias --tf 1.6 --tb 1.3 --moments exact --tolerance 1e-4 --out exact.h5
      gradlab bias vae-16x12.safetensors --tf 1 --tb 1 --sweep none --precision 0.05 --max-draws 65536
      gradlab bias ae.safetensors --tf 0.3 --tb 0.5,1,3 --sweep none --images 16 --draws 256 --reference disarm
      gradlab bias --tf 1.6 --tb 1.3 --sweep none --wrt encoder --memory 1GiB --out encoder.h5
      gradlab bias --model my_module:model --weights mine.safetensors --observations x.npy --out mine.h5
      gradlab bias epoch-*.safetensors --tf 0.3:3.0:10 --tb 1 --workers 8 --out over-training.h5

    If the code space is too large to enumerate, the reference is an unbiased estimator. The metrics then have the same
    names and include no sampling noise, and `resolved` says whether the bias differs from 0. An option without effect,
    such as --tolerance with --moments monte-carlo, is refused.
    """
    import functools

    import gradlab

    _check_usage(names, values)
    tf, tb, cross = _points(sweep, tf, tb)
    how = {"moments": values.moments(moments), "reference": values.reference(reference)}
    estimator = list(names) if len(names) > 1 else names[0]
    measured.by("bias", functools.partial(gradlab.bias, estimator=estimator, **what, **how), tf, tb, values, cross)


def _check_usage(names, values) -> None:
    """Raises UsageError for temperatures within an estimator, and for --equal-cost of one estimator."""
    if any("tf=" in name or "tb=" in name for name in names):
        raise click.UsageError("--estimator: temperatures are given by --tf and --tb")
    if len(names) < 2 and "--equal-cost" in values.written(MonteCarlo):
        raise click.UsageError("--equal-cost: needs at least two --estimator, got one")


def _points(sweep, tf, tb):
    """The temperatures to measure at, and the point of the cross or None."""
    from gradlab.analyses.figure6_bias_variance import TEMPERATURES

    one_point = len(tf) == len(tb) == 1
    sweep = sweep or ("cross" if one_point else "none")
    if sweep == "cross" and not one_point:
        raise click.UsageError("--sweep cross: needs one --tf and one --tb")
    cross = (tf[0], tb[0]) if sweep == "cross" else None
    if sweep != "none":
        tf, tb = sorted({*TEMPERATURES, *tf}), sorted({*TEMPERATURES, *tb})
    return tf, tb, cross
