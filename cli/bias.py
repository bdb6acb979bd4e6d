"""gradlab bias: bias and variance against the exact gradient."""

from __future__ import annotations

from typing import Any

import click

from .measuring import check_usage, measure, observed
from .options import (
    EstimatorSpec,
    TemperatureSpec,
    data_dir_option,
    data_option,
    device_option,
    draws_option,
    images_option,
    json_option,
    memory_option,
    out_option,
    own_model_options,
    plot_option,
    resolve_device,
    seed_option,
    tf32_option,
)


@click.command()
@click.argument("checkpoints", nargs=-1, type=click.Path(dir_okay=False), metavar="[CHECKPOINT]...")
@click.option(
    "--tf",
    type=TemperatureSpec(),
    default="1.6",
    show_default=True,
    help="Forward temperatures: 1.6, or 0.5,1.0,1.6 or 0.3:3.0:10.",
)
@click.option("--tb", type=TemperatureSpec(), default="1.3", show_default=True, help="Backward temperatures, likewise.")
@click.option(
    "--sweep",
    type=click.Choice(["cross", "grid", "none"]),
    help="cross: also 0.3 to 3.0 along each temperature through the one point given (figure 6); grid: every pair of"
    " these; none: the pairs given.  [default: cross for one point, else none]",
)
@click.option(
    "--estimator",
    "names",
    type=EstimatorSpec(),
    multiple=True,
    metavar="NAME",
    help="Repeat to compare, e.g. st-gs or st-gs:convention=jang.  [default: decoupled-st-gs]",
)
@draws_option
@images_option(100)
@data_option
@data_dir_option
@own_model_options
@click.option(
    "--target",
    type=click.Choice(["sampled", "model", "both"]),
    default="sampled",
    show_default=True,
    help="Law whose expected loss the exact gradient differentiates: softmax(l/tf), or softmax(l).",
)
@click.option(
    "--moments",
    type=click.Choice(["monte-carlo", "exact"]),
    default="monte-carlo",
    show_default=True,
    help="How mean and variance of the estimates are found: monte-carlo, from draws; exact, by enumeration and"
    " integrals over the noise, with their numerical error.",
)
@click.option(
    "--reference",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="What estimates are held against: exact, the enumerated gradient; rloo, disarm, arms:n=4, ...: an unbiased"
    " estimator; auto: exact where the code space is small enough, else the unbiased one of smallest variance.",
)
@click.option(
    "--precision",
    type=click.FloatRange(min=0, min_open=True),
    help="With a reference that is sampled: add draws until the interval of the relative bias is at most +- this (of"
    " its value, where that is above 1).",
)
@click.option(
    "--max-draws",
    type=click.IntRange(min=2),
    default=131_072,
    show_default=True,
    help="Per point, for --precision.",
)
@click.option(
    "--wrt",
    type=click.Choice(["logits", "encoder"]),
    default="logits",
    show_default=True,
    help="What gradients are taken with respect to: the logits, or the encoder's parameters, tensor by tensor, of the"
    " mean over images; a pass through the encoder per draw.",
)
@click.option(
    "--equal-cost",
    is_flag=True,
    help="Compare estimators at equal loss evaluations: an estimate is the mean of as many draws as one draw of the"
    " dearest costs.",
)
@click.option("--kl", is_flag=True, help="Add the KL term's gradient to both sides.")
@click.option(
    "--route",
    type=click.Choice(["auto", "table", "pairs", "draws"]),
    default="auto",
    show_default=True,
    help="How the decoder's part of the draws is found: by configuration, by distinct image and code, or draw by draw;"
    " the figures are the same.",
)
@click.option(
    "--exact-dtype",
    type=click.Choice(["float64", "float32"]),
    default="float64",
    show_default=True,
    help="Precision of the losses in the exact gradient; float32 halves its time, and its error is stated.",
)
@memory_option
@tf32_option
@device_option
@seed_option
@out_option("bias.h5")
@plot_option
@json_option
def bias(
    checkpoints,
    own,
    tf,
    tb,
    sweep,
    names,
    draws,
    images,
    data,
    data_dir,
    target,
    moments,
    reference,
    precision,
    max_draws,
    wrt,
    equal_cost,
    kl,
    route,
    exact_dtype,
    memory,
    tf32,
    device,
    seed,
    out,
    plot,
    as_json,
):
    """Bias and variance of gradient estimators against the exact gradient.

    Without CHECKPOINT the bundled 8x4 VAE is measured on bundled images. Several checkpoints (a training run's, say)
    go into one file, along the dim `checkpoint`.

    \b
    Examples:
      gradlab bias --tf 1.6 --tb 1.3
      gradlab bias vae.safetensors --tf 0.3:3.0:10 --tb 0.3:3.0:10 --target both --out grid.h5
      gradlab bias --tf 1 --tb 1 --sweep none --estimator reinmax --estimator rloo:n=4 --equal-cost
      gradlab bias --tf 1.6 --tb 1.3 --moments exact --out exact.h5
      gradlab bias vae-16x12.safetensors --tf 1 --tb 1 --sweep none --precision 0.05 --max-draws 65536
      gradlab bias ae.safetensors --tf 0.3 --tb 0.5,1,3 --sweep none --images 16 --draws 256 --reference disarm
      gradlab bias --tf 1.6 --tb 1.3 --sweep none --wrt encoder --out encoder.h5
      gradlab bias --model my_module:model --weights mine.safetensors --observations x.npy --out mine.h5

    A code space too large to enumerate is measured against an unbiased reference: figures, all without sampling noise,
    are then of the same names, and `resolved` says whether the bias is told from 0.
    """
    from gradlab.analyses.figure6_bias_variance import TEMPERATURES

    import gradlab
    from gradlab import estimators
    from gradlab.checkpoints import BUNDLED

    check_usage(checkpoints, own, out, plot)
    if any("tf=" in name or "tb=" in name for name in names):
        raise click.UsageError("--estimator: temperatures are given by --tf and --tb")
    one_point = len(tf) == len(tb) == 1
    sweep = sweep or ("cross" if one_point else "none")
    if sweep == "cross" and not one_point:
        raise click.UsageError("--sweep cross goes through one point: give one --tf and one --tb")
    cross = (tf[0], tb[0]) if sweep == "cross" else None
    if sweep != "none":
        tf, tb = sorted({*TEMPERATURES, *tf}), sorted({*TEMPERATURES, *tb})
    chosen = [estimators.parse(name) for name in names or ("decoupled-st-gs",)]
    measured_on = observed(own, data, data_dir, images)
    place = resolve_device(device)

    how: Any = gradlab.MonteCarlo(draws=draws, decoder=route, equal_cost=equal_cost)
    if moments == "exact":
        how = gradlab.Integrated()
    against = reference
    if reference not in ("auto", "exact") or precision is not None:
        against = gradlab.Sampled(reference, precision=precision, max_draws=max_draws)
    elif exact_dtype != "float64":
        against = gradlab.Enumerated(dtype=exact_dtype)

    def analysis(model, x):
        return gradlab.bias(
            model,
            x,
            tf=tf,
            tb=tb,
            cross=cross,
            estimator=chosen if len(chosen) > 1 else chosen[0],
            target=target,
            seed=seed,
            moments=how,
            reference=against,
            wrt=wrt,
            kl=kl,
            compute=gradlab.Compute(device=place, memory=memory and memory * 2**20, tf32=tf32, progress=True),
        )

    measure(checkpoints, own, BUNDLED, measured_on, analysis, out, plot, as_json)
