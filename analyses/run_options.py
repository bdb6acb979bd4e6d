"""The options of all analyses. Does not import torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlab.choices import KL_TERMS
from gradlab.fields import Checked, option, options

OF_PLACE = ("device", "workers", "ensemble", "tf32", "scheduler")  # of trainings
OF_A_CHECKPOINT = ("checkpoint", "data", "data_dir", "images", "draws", "device")


@dataclass(frozen=True, kw_only=True)
class RunOptions(Checked):
    """The options of a run: data, folder, numbers and device. None means the default of the analysis.

    Raises ValueError for invalid values.
    """

    folder: Path = Path("results")
    data: str | None = option(
        None,
        "See `gradlab data list`.  [default: mnist; table 1 cifar10; figures 5, 6 mnist-sample]",
        kind="data",
    )
    data_dir: str | None = option(
        None, "Folder of the data sets.  [default: $GRADLAB_DATA or the user's cache]", kind="folder"
    )
    checkpoint: str | None = option(
        None, "A trained model: any for figure 5, an 8x4 VAE for figure 6.  [default: the bundled one]", kind="file"
    )
    images: int | None = option(None, "Replaces the number of the budget.", at_least=1)
    seeds: int | None = option(None, "Replaces the number of the budget.", at_least=1)
    time: float | None = option(
        None, "Train the number of seeds that fits into 90s, 10m or 2h.", kind="duration"
    )  # seconds
    kl: str | None = option(None, "KL term of the training loss of VAEs.  [default: model]", KL_TERMS)
    draws: int | None = option(None, "Replaces the number of the budget.", at_least=2)
    device: str = option("cpu", "auto (a GPU where there is one), cpu, cuda, cuda:1, ...")
    workers: int = option(1, "Number of processes, with one GPU each.", at_least=1)
    ensemble: int | str = option(
        "auto",
        "Trainings that a worker runs at once, on a GPU as one stack. auto: the number that fits in its memory.",
        at_least=1,
        kind="ensemble",
    )
    tf32: bool = option(False, "Allow TensorFloat-32 for float32 on a GPU: faster, but it changes the results.")
    scheduler: str | None = option(None, "Address of a Dask scheduler (tcp://host:8786), whose workers do the work.")
    progress: bool = False

    @property
    def where(self) -> dict[str, Any]:
        """The arguments of gradlab.sweeps.sweep that say where and how trainings run."""
        return {name: getattr(self, name) for name in (*OF_PLACE, "progress")}

    def only(self, takes: Sequence[str]) -> RunOptions:
        """The same, with the defaults in place of options other than `takes`."""
        left = {one.name: one.default for one in options(RunOptions) if one.name not in takes}
        return dataclasses.replace(self, **left)


FIELDS = tuple(one.name for one in options(RunOptions))


def measure_checkpoint(
    options: RunOptions, bundled: str, images: int, draws: int, analysis: Callable[[Any, Any, int], Any]
) -> Any:
    """The result of `analysis(model, x, draws)` for one trained model on test images, with both in its attributes."""
    from gradlab import checkpoints, datasets

    model, about = checkpoints.load_described(options.checkpoint, bundled)
    observed = datasets.load(options.data or "mnist-sample", "test", options.data_dir).first(options.images or images)
    ds = analysis(model.to(options.device), observed.floats(), options.draws or draws)
    ds.attrs |= about | observed.described()
    return ds
