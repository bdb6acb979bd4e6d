"""What every analysis is given, and the budgets it can be run with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUDGETS = ("quick", "standard", "paper")  # ten minutes on two cores; some hours there; a GPU or a cluster


@dataclass(frozen=True, kw_only=True)
class Given:
    """Where an analysis finds its data and leaves what it can go on from. None: the analysis's own choice."""

    folder: Path = Path("results")
    data: str | None = None
    data_dir: str | None = None
    checkpoint: str | None = None
    images: int | None = None
    seeds: int | None = None
    time: float | None = None  # seconds that trainings may take: as many seeds as fit
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
        """Where and how trainings run, as gradlab.sweeps.sweep takes it."""
        names = ("device", "workers", "ensemble", "tf32", "scheduler", "progress")
        return {name: getattr(self, name) for name in names}


def measure_checkpoint(
    given: Given, bundled: str, images: int, draws: int, analysis: Callable[[Any, Any, int], Any]
) -> Any:
    """`analysis(model, x, draws)` of one trained model on test images; says in its attributes which."""
    from gradlab import checkpoints, datasets

    model, about = checkpoints.load_described(given.checkpoint, bundled)
    observed = datasets.load(given.data or "mnist-sample", "test", given.data_dir).first(given.images or images)
    ds = analysis(model.to(given.device), observed.floats(), given.draws or draws)
    ds.attrs |= about | observed.described()
    return ds
