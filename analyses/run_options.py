"""The options of all analyses, and their budgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUDGETS = ("quick", "standard", "paper")  # ten minutes on two cores; some hours on two cores; a GPU or a cluster


@dataclass(frozen=True, kw_only=True)
class Given:
    """The options of a run: data, folder, numbers and device. None means the default of the analysis."""

    folder: Path = Path("results")
    data: str | None = None
    data_dir: str | None = None
    checkpoint: str | None = None
    images: int | None = None
    seeds: int | None = None
    time: float | None = None  # seconds that limit the number of seeds
    kl: str | None = None
    draws: int | None = None
    device: str = "cpu"
    workers: int = 1
    ensemble: int | str = "auto"
    tf32: bool = False
    scheduler: str | None = None
    progress: bool = False

    @property
    def where(self) -> dict[str, Any]:
        """The arguments of gradlab.sweeps.sweep that say where and how trainings run."""
        names = ("device", "workers", "ensemble", "tf32", "scheduler", "progress")
        return {name: getattr(self, name) for name in names}


def measure_checkpoint(
    given: Given, bundled: str, images: int, draws: int, analysis: Callable[[Any, Any, int], Any]
) -> Any:
    """The result of `analysis(model, x, draws)` for one trained model on test images, with both in its attributes."""
    from gradlab import checkpoints, datasets

    model, about = checkpoints.load_described(given.checkpoint, bundled)
    observed = datasets.load(given.data or "mnist-sample", "test", given.data_dir).first(given.images or images)
    ds = analysis(model.to(given.device), observed.floats(), given.draws or draws)
    ds.attrs |= about | observed.described()
    return ds
