"""Functions of the analyses that train a model at many temperatures."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from gradlab.attributes import nested
from gradlab.training import Settings

from . import sizing
from .run_options import OF_PLACE, RunOptions

TAKEN = ("data", "data_dir", "images", "seeds", "time", *OF_PLACE)  # RunOptions of trainings
LEAST_SEEDS = 3  # minimal number for a verdict; the paper uses 5 and 10
KEPT_EPOCHS = 32  # approximate number of epochs in collected results, denser at the start, so that files are small


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """A grid of trainings. `pairs` restricts it to some (tf, tb)."""

    tf: tuple[float | str, ...]
    tb: tuple[float | str, ...]
    seeds: int
    epochs: int
    images: int  # taken from the start of the training split
    validation: int
    config: tuple[tuple[str, Any], ...] = ()
    pairs: tuple[tuple[float | str, float | str], ...] | None = None

    @property
    def chosen(self) -> list[tuple[float | str, float | str]]:
        """The pairs (tf, tb) that are trained."""
        return list(self.pairs or [(tf, tb) for tf in self.tf for tb in self.tb])

    def settings(self, base: Settings) -> Settings:
        return dataclasses.replace(base, config=base.config | dict(self.config), epochs=self.epochs)

    def cost(self, base: Settings) -> str:
        """The number of trainings, steps and images as text."""
        cells = len(self.chosen) * self.seeds
        steps = cells * self.epochs * -(-self.images // base.batch_size)
        return (
            f"{cells:,} trainings ({self.seeds} seed{'s' * (self.seeds > 1)}) of {self.epochs} epochs on"
            f" {self.images:,} images: {steps:,} steps of {base.batch_size} images"
        )


class OfTrainings:
    """Base of the analyses that train a grid and judge its losses."""

    name: ClassVar[str]
    base: ClassVar[Settings]
    data: ClassVar[str]
    budgets: ClassVar[Mapping[str, Trainings]]

    def cost(self, budget: str) -> str:
        return self.budgets[budget].cost(self.base)

    def measure(self, options: RunOptions, budget: str) -> xr.Dataset:
        return measure(options, self.base, self.budgets[budget], self.data, self.name)

    def draw(self, ds: xr.Dataset) -> Any:
        """Heatmap, and the diagonal against the best beside it."""
        from gradlab import plots, sweeps

        return plots.losses(sweeps.with_means(ds))


def measure(
    options: RunOptions,
    base: Settings,
    trainings: Trainings,
    data: str,
    name: str,
    *,
    kls: Sequence[str] | None = None,
    cells: str | None = None,
    track: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Trains missing cells in a folder and collects all of them. Prints the expected time first.

    `kls` trains with each of these KL terms and adds a dim `kl`. `cells` is the name of another analysis that owns the
    cells. `track` contains the tracking arguments of gradlab.sweeps.sweep.
    """
    from gradlab import sweeps

    images, validation = _images(options, trainings, data)
    settings = trainings.settings(base)
    settings = dataclasses.replace(settings, config=settings.config | {"image_shape": list(images.pixels.shape[1:])})
    chosen = [options.kl or str(settings.kl)] if kls is None else list(kls)
    seeds = _seeds(options, settings, trainings, images, validation, len(chosen), name)
    found = [
        sweeps.sweep(
            dataclasses.replace(settings, kl=kl),
            images,
            validation,
            options.folder / f"{cells or name}-cells",
            tf=trainings.tf,
            tb=trainings.tb,
            pairs=trainings.pairs,
            seeds=seeds,
            **(track or {}),
            **options.where,
        )
        for kl in chosen
    ]
    return thinned(found[0] if kls is None else _joined(found, chosen))


def _images(options: RunOptions, trainings: Trainings, data: str) -> tuple[Any, Any]:
    from gradlab import datasets

    load = options.data or data
    images = datasets.load(load, "train", options.data_dir).first(options.images or trainings.images)
    everything = datasets.load(load, "test", options.data_dir)
    return images, everything.first(min(trainings.validation, len(everything)))


def _seeds(
    options: RunOptions, settings: Settings, trainings: Trainings, images: Any, validation: Any, times: int, name: str
) -> int:
    """The number of seeds. Prints the number of trainings and, with a time limit, their time."""
    asked, pairs = options.seeds or trainings.seeds, times * len(trainings.chosen)
    steps = settings.epochs * -(-len(images) // settings.batch_size)
    if options.time is None:
        if options.progress:  # the sweep prints the time
            print(f"{name}: {sizing.counted(pairs, asked)} of {steps:,} steps", file=sys.stderr)
        return asked
    cells = [dataclasses.replace(settings, tf=tf, tb=tb) for tf, tb in trainings.chosen]
    cost = sizing.measured(cells, images, validation, options.device, options.workers, options.tf32)
    plan = sizing.plan(pairs, steps, cost, asked, options.time)
    print(f"{name}: {plan}", file=sys.stderr)
    return plan.seeds


def _joined(found: Sequence[xr.Dataset], kls: Sequence[str]) -> xr.Dataset:
    """Joins sweeps that differ only in the KL term along a dim `kl`."""
    coordinate = xr.Variable("kl", list(kls), {"long_name": "KL term of the training loss", "units": "1"})
    ds = xr.concat(found, coordinate, combine_attrs="override", join="exact")
    return ds.assign_attrs({"settings.kl": "see coordinate"})


def thinned(ds: xr.Dataset) -> xr.Dataset:
    """The sweep with curves at about KEPT_EPOCHS epochs, denser at the start, in float32.

    The cells keep every epoch. Values of the last epoch are not changed.
    """
    last = int(ds.epoch[-1])
    epochs = np.unique(np.geomspace(1, last, KEPT_EPOCHS).round().astype(int))
    ds = ds.sel(epoch=[epoch for epoch in epochs if epoch in ds.epoch])
    curves = {name: of.astype(np.float32) for name, of in ds.data_vars.items() if "epoch" in of.dims}
    return ds.assign({name: of.assign_attrs(ds[name].attrs) for name, of in curves.items()})


def lacking(ds: xr.Dataset, claim: Trainings, data: str) -> list[str]:
    """The ways in which a sweep falls short of the trainings of a claim, as texts."""
    settings, about = nested(ds.attrs, "settings"), ds.attrs
    counts = [
        ("epochs", settings["epochs"], claim.epochs),
        ("images", about.get("images", 0), claim.images),
        ("validation images", about.get("validation_images", 0), claim.validation),
        ("pairs", _trained(ds, claim), len(claim.chosen)),
    ]
    found = [f"{got:,} of {needed:,} {of}" for of, got, needed in counts if got < needed]
    if (seeds := _most_seeds(ds)) < LEAST_SEEDS:
        found.append(f"{seeds} of at least {LEAST_SEEDS} seeds")
    config = settings.get("config", {})
    found += [f"{name} {config.get(name)} of {value}" for name, value in claim.config if config.get(name, 0) < value]
    if (name := str(about.get("data", "")).split(",")[0]) != data:
        found.append(f"data {name}, not {data}")
    return found


def _most_seeds(ds: xr.Dataset) -> int:
    return int((ds.status != "missing").sum("seed").max())


def _trained(ds: xr.Dataset, claim: Trainings) -> int:
    """The number of pairs of the claim with enough seeds, done or failed: LEAST_SEEDS, or what other pairs have."""
    tried = (ds.status != "missing").sum("seed")
    enough = min(LEAST_SEEDS, _most_seeds(ds))
    axes = [{value: i for i, value in enumerate(ds[name].values.tolist())} for name in ("tf", "tb")]
    count = 0
    for pair in claim.chosen:
        # an axis with a schedule contains strings only
        at = [axis.get(value, axis.get(_text(value))) for axis, value in zip(axes, pair, strict=True)]
        count += None not in at and int(tried.transpose("tf", "tb")[tuple(at)]) >= enough
    return count


def _text(temperature: float | str) -> str:
    return temperature if isinstance(temperature, str) else f"{temperature:.12g}"
