"""A run: the steps, epochs and files of one training."""

from __future__ import annotations

import dataclasses
import datetime
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__, checkpoints, choices, errors, estimators, networks, schedules
from ..datasets import Images
from ..estimators import Estimator, RunningMean
from ..model import LatentModel
from ..numerics import free_memory, keep_freed_pages
from ..settings import Settings
from . import state, streams
from .step import backward, evaluate

OF_VALIDATION = ("validation_loss", "validation_kl", "validation_kl_sampled")
MEASURED = ("train_loss", "train_kl", *OF_VALIDATION)  # per epoch; loss without KL
HISTORY = (*MEASURED, "tf", "tb")  # temperatures of the epoch's last step

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    name: getattr(torch.optim, called) for name, called in choices.OPTIMIZERS.items()
}


class Run:
    """One training: model, optimizer, step, running sums of the epoch, history."""

    def __init__(self, settings: Settings, images: Images, validation: Images, device: str, tf32: bool = False):
        self.tf32 = tf32
        self.settings, self.images, self.validation = settings, images, validation
        self.device = torch.device(device)
        if self.device.type == "cpu":
            keep_freed_pages()  # gradients are freed at each step, and new pages take a fifth of its time
        model = networks.build(settings.architecture, settings.config, settings.seed)
        check_fit(model, "images", images)
        check_fit(model, "validation", validation)
        self.model = model.to(self.device)
        self.schedules = [schedules.parse(spec) for spec in (settings.tf, settings.tb)]
        self.estimator = estimators.parse(settings.estimator)
        if model.kind.name not in self.estimator.kinds:
            kinds = " and ".join(self.estimator.kinds)
            raise ValueError(
                f"estimator: expected one for {model.kind.name} latents, got {settings.estimator}, which is for {kinds}"
                " latents"
            )
        self._check_room()
        decay = self.estimator.baseline_decay
        self.baseline = None if decay is None else RunningMean(decay)
        self.steps = -(-len(images) // settings.batch_size)  # per epoch
        self.total = settings.epochs * self.steps
        # foreach: the update uses few large operations, which shortens a step by a quarter on two cores
        optimizer: Any = OPTIMIZERS[settings.optimizer]
        self.optimizer = optimizer(self.model.parameters(), lr=settings.lr, foreach=True)
        self.step = 0
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, KL, examples
        self.history: dict[str, list[float]] = {name: [] for name in MEASURED}
        self.seconds = 0.0
        self.since = time.perf_counter()
        self._noise: tuple[int, Tensor] | None = None  # the current block

    def _check_room(self) -> None:
        """Raises ValueError for noise and points of a step that do not fit in memory, and for spaces too large."""
        e, shape = self.estimator, self.model.code_shape
        evaluations = e.evaluations_at(self.model.kind, torch.empty(1, *shape))
        numbers = self.settings.batch_size * math.prod(shape)
        needed = 4 * numbers * (streams.BLOCK * e.noise_arrays + 2 * evaluations)
        if self.device.type == "cpu" and needed > (free := free_memory()):
            raise ValueError(
                f"estimator: expected a step that fits in the free memory of {errors.size(free)}, got"
                f" {errors.size(needed)} for {e.label} and batch size {self.settings.batch_size:,}; take fewer"
            )

    def temperatures(self, step: int) -> tuple[float, float]:
        """tf and tb of a step, counted from 0. A schedule starts at the first step and ends at the last one.

        A training with a single step uses the start of the schedule.
        """
        progress = step / (self.total - 1) if self.total > 1 else 0.0
        tf, tb = (schedule.at(progress) for schedule in self.schedules)
        return tf, tb

    @property
    def in_force(self) -> tuple[float, float]:
        """tf and tb of the last step, or of the first one before training starts."""
        return self.temperatures(max(self.step - 1, 0))

    def one_step(self, batch: Tensor) -> None:
        estimator = self.estimator.at(*self.temperatures(self.step))
        x = self.images.floats(batch).to(self.device)
        self.optimizer.zero_grad()
        loss, kl = backward(self.model, estimator, x, self.noise(estimator, x), self.settings.kl, self.baseline)
        self.optimizer.step()
        self.sums += torch.stack([loss, kl, torch.ones_like(loss)]).double() * len(x)
        self.step += 1

    def noise(self, estimator: Estimator, x: Tensor) -> Tensor:
        """The noise of the next step, with the number of arrays that the estimator needs."""
        block, into = divmod(self.step, streams.BLOCK)
        if self._noise is None or self._noise[0] != block:
            shape = (self.settings.batch_size, *self.model.code_shape)
            own = self.model.kind, self.settings.seed, block, estimator.noise_arrays, shape
            self._noise = block, streams.noise_block(*own, x.dtype, self.device)
        return self._noise[1][into, :, : len(x)]

    def batches_left(self) -> tuple[Tensor, ...]:
        """Indices of the images for each remaining step of the current epoch."""
        order = streams.order(self.settings.seed, self.step // self.steps, len(self.images))
        return order.split(self.settings.batch_size)[self.step % self.steps :]

    def examples(self, step: int) -> int:
        """The number of examples in the batch of a step. The last batch of an epoch may be smaller."""
        behind = step % self.steps * self.settings.batch_size
        return min(self.settings.batch_size, len(self.images) - behind)

    def validate(self) -> list[float]:
        return evaluate(self.model, self.validation, self.in_force[0], self.settings.seed)

    def end_epoch(self, figures: Sequence[float], kept: Path) -> None:
        """Stores the values MEASURED of the epoch that ends. Raises FloatingPointError if one is not finite."""
        if not all(map(math.isfinite, figures)):
            raise self.diverged(kept)
        for name, value in zip(MEASURED, figures, strict=True):
            self.history[name].append(value)

    def lap(self) -> None:
        """Adds the time since the last call to the time of the training."""
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now

    def detach(self) -> None:
        """Copies the weights out of a stack."""
        for parameter in self.model.parameters():
            parameter.data = parameter.data.clone()

    def diverged(self, kept: Path) -> FloatingPointError:
        last = f"; the last finite state is in {kept}" if kept.is_file() else ""
        return FloatingPointError(
            f"the loss or a weight is no longer finite after step {self.step}{last} (try a smaller lr)"
        )

    def about(self) -> dict[str, Any]:
        return {
            "settings": dataclasses.asdict(self.settings),
            "data": {"name": self.images.name, "sha256": self.images.sha256, "images": len(self.images)},
            "validation": {"sha256": self.validation.sha256, "images": len(self.validation)},
        }

    def save(self, path: str | Path, final: bool = False) -> None:
        self.lap()
        provenance = {
            **self.about(),
            "history": self._history(),
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "gradlab": __version__,
            "torch": str(torch.__version__),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "tf32": self.tf32,
        }
        training: dict[str, Tensor] = {}
        if not final:
            training = {"sums": self.sums}
            if self.baseline is not None:
                training["baseline"] = self.baseline.state
            training |= state.of_optimizer(self.optimizer)
        self.model.provenance = provenance
        checkpoints.write(path, self.model, training, provenance)

    def _history(self) -> dict[str, list[float]]:
        found = {name: [float(f"{v:.7g}") for v in values] for name, values in self.history.items()}
        ends = [self.temperatures(self.steps * (epoch + 1) - 1) for epoch in range(self.step // self.steps)]
        return found | {"tf": [tf for tf, _ in ends], "tb": [tb for _, tb in ends]}

    def restore(self, path: Path) -> None:
        """Restores the state that `save` wrote.

        Raises FileNotFoundError, BadFile for a file of another kind, and ValueError for the state of another training.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no interrupted training; start one without --resume")
        model, training, provenance = checkpoints.read(path)
        try:
            difference = self.difference(provenance)
            if not difference:
                self._take(model, training, provenance)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError) as error:
            errors.pass_on_memory(error)
            fault = f"{path}: expected a complete state of a training, got another file ({error!r:.200})"
            raise errors.BadFile(fault) from None
        if difference:
            raise ValueError(f"resume: expected the state of this training, got {path}, which {difference}")

    def difference(self, provenance: dict[str, Any]) -> str:
        """The difference between the stored training and this one, as text, or ""."""
        other = state.difference(self.about(), provenance)
        if not other and provenance["step"] > self.total:
            done = provenance["step"] // self.steps
            return f"has {done} epochs (asked: epochs {self.settings.epochs}); ask for at least as many"
        return other

    def _take(self, model: LatentModel, training: dict[str, Tensor], provenance: dict[str, Any]) -> None:
        self.model.load_state_dict(model.state_dict())
        state.into_optimizer(self.optimizer, training)
        self.sums.copy_(training["sums"].reshape(3))
        if self.baseline is not None:
            self.baseline.state = training["baseline"].reshape(2)
        self.step = errors.whole_number("step", provenance["step"], 1)
        self.history = {name: [float(v) for v in provenance["history"][name]] for name in MEASURED}
        if any(len(values) != self.step // self.steps for values in self.history.values()):
            raise ValueError(f"expected a history of {self.step // self.steps} epochs, got another length")
        self.seconds = float(provenance["seconds"])


def check_fit(model: LatentModel, argument: str, images: Images) -> None:
    """Raises ValueError unless the model accepts these images."""
    if not len(images):
        raise ValueError(f"{argument}: expected at least one image, got none")
    x = images.floats(slice(0, 1))
    model.eval()  # one image must not change running statistics
    try:
        with torch.no_grad():
            _, units = model.encoded(x)
            model.with_units(units).losses(torch.zeros(1, *model.code_shape), x)
    except (RuntimeError, ValueError) as error:
        errors.pass_on_memory(error)
        expected = f"{argument}: expected images that fit config {model.config}"
        reason = str(error).splitlines()[0]
        raise ValueError(f"{expected}, got shape {tuple(images.pixels.shape[1:])} ({reason})") from None
    finally:
        model.train()
