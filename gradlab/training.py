"""Training with any estimator: resumable bit for bit, because every random number follows from (seed, step)."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import __version__, checkpoints, errors, estimators, networks, progress
from .datasets import Images
from .estimators import Estimator
from .latents import derived_seed
from .model import LatentModel

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"radam": torch.optim.RAdam, "adam": torch.optim.Adam}
HISTORY = ("train_loss", "train_kl", "validation_loss", "validation_kl")  # per epoch; loss without KL


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the final weights, but the images. Defaults: the paper's 8x4 VAE (appendix A.2)."""

    architecture: str = "categorical-vae"
    config: dict[str, Any] = field(default_factory=lambda: {"latents": 4, "categories": 8})
    estimator: str = "decoupled-st-gs"
    tf: float = 1.6
    tb: float = 1.3
    kl: bool = True  # add KL(softmax(l) || uniform), untempered, to the loss
    optimizer: str = "radam"
    lr: float = 5e-4
    batch_size: int = 100
    epochs: int = 160
    seed: int = 0

    def __post_init__(self):
        errors.temperature("tf", self.tf)
        errors.temperature("tb", self.tb)
        errors.choice("optimizer", self.optimizer, list(OPTIMIZERS))
        errors.whole_number("batch_size", self.batch_size, 1)
        errors.whole_number("epochs", self.epochs, 1)
        errors.whole_number("seed", self.seed, 0)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr: got {self.lr}; a learning rate is a finite number above 0")


def backward(
    model: LatentModel, estimator: Estimator, x: Tensor, noise: Tensor, kl: bool = True
) -> tuple[Tensor, Tensor]:
    """One backward pass of the mean loss over the batch: the estimator's gradient for the encoder, autograd's for the rest.

    Gradients are added to the parameters' `.grad`. Returns the batch means of the loss and of the KL term, in nats or
    the likelihood's unit. `noise` is `(array, example, latent, category)` (binary: without category).
    """
    logits = model.logits(x)
    detached = logits.detach()
    points = estimator.points(model.kind, detached, noise)
    n = points.shape[0] * points.shape[1]
    codes = points.flatten(0, 1).requires_grad_()
    observed = x if points.shape[0] == 1 else x.repeat(points.shape[0], *([1] * (x.ndim - 1)))
    loss = model.losses(codes, observed)
    loss.mean().backward()
    loss = loss.detach().reshape(points.shape[:2])
    derivative = codes.grad.reshape(points.shape) * n if estimator.uses_derivative else None  # type: ignore[union-attr]
    estimate = estimator.estimate(model.kind, detached, noise, points, loss, derivative)
    divergence = model.kind.kl_to_uniform(logits).mean() if kl else torch.zeros((), dtype=loss.dtype)
    heads, slopes = [logits], [estimate / len(x)]
    if kl:
        heads.append(divergence)
        slopes.append(torch.ones_like(divergence))
    torch.autograd.backward(heads, slopes)
    return loss.mean(), divergence.detach()


@torch.no_grad()
def evaluate(model: LatentModel, images: Images, tf: float, seed: int, batch: int = 1000) -> tuple[float, float]:
    """Mean loss at one code per image from softmax(l/tf), and mean KL. The codes' noise depends on `seed` alone."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(derived_seed(seed, "validation"))
    sums = torch.zeros(2, dtype=torch.float64)
    for start in range(0, len(images), batch):
        x = images.floats(slice(start, start + batch)).to(device)
        logits = model.logits(x)
        noise = model.kind.noise(tuple(logits.shape), dtype=logits.dtype, device=device, generator=generator)
        loss = model.losses(model.kind.hard(logits / tf + noise), x).double().sum()
        sums += torch.stack([loss, model.kind.kl_to_uniform(logits).double().sum()]).cpu()
    loss_mean, kl_mean = (sums / len(images)).tolist()
    return loss_mean, kl_mean


def resume_path(out: str | Path) -> Path:
    """Where a training that writes `out` keeps its state until it ends."""
    out = Path(out)
    return out.with_name(f"{out.stem}.resume{out.suffix}")


def train(
    settings: Settings,
    images: Images,
    validation: Images,
    out: str | Path,
    *,
    resume: bool = False,
    keep_every: int = 0,
    device: str = "cpu",
    shown: bool = False,
) -> LatentModel:
    """Train a built-in model, write it to `out`, and return it.

    The state is written to `resume_path(out)` after every epoch and on Ctrl-C, and removed at the end; `resume=True`
    goes on from there to the same weights, bit for bit, as an unbroken run on the same machine. `keep_every=10` also
    keeps the model of every tenth epoch, as NAME-epoch0010.safetensors.

    Raises
    ------
    ValueError
        Settings out of range, images that do not fit; `resume` with a state that was trained with other settings.
    FileNotFoundError
        `resume` without a state to go on from.
    FloatingPointError
        The loss is no longer finite; the state of the last epoch is kept.
    KeyboardInterrupt
        On Ctrl-C, once the state is written.
    """
    state = resume_path(out)
    run = _Run(settings, images, validation, device)
    if resume:
        run.restore(state)
    steps = -(-len(images) // settings.batch_size)
    total = settings.epochs * steps
    with _interruptible() as stop, progress.bar("training", total, shown, done=run.step) as advance:
        while run.step < total:
            epoch = run.step // steps
            order = torch.randperm(len(images), generator=run.random("order", epoch))
            for batch in order.split(settings.batch_size)[run.step % steps :]:
                run.one_step(batch)
                advance()
                if stop.is_set():
                    run.save(state)
                    raise KeyboardInterrupt(f"stopped at step {run.step} of {total}; --resume goes on from {state}")
            run.end_epoch(state)
            advance(0, epoch=f"{epoch + 1}/{settings.epochs}", validation=f"{run.history['validation_loss'][-1]:.2f}")
            run.save(state)
            if keep_every and (epoch + 1) % keep_every == 0:
                name = Path(out)
                run.save(name.with_name(f"{name.stem}-epoch{epoch + 1:04d}{name.suffix}"), final=True)
    run.save(out, final=True)
    state.unlink(missing_ok=True)
    return run.model


class _Run:
    """A training under way: model, optimizer, step, running sums of the epoch, history."""

    def __init__(self, settings: Settings, images: Images, validation: Images, device: str):
        self.settings, self.images, self.validation = settings, images, validation
        self.device = torch.device(device)
        self.model = networks.build(settings.architecture, settings.config, settings.seed).to(self.device)
        self.estimator = estimators.find(settings.estimator)().at(settings.tf, settings.tb)
        # foreach: the update as few large operations; on two cores the step is a quarter shorter
        self.optimizer = OPTIMIZERS[settings.optimizer](self.model.parameters(), lr=settings.lr, foreach=True)  # type: ignore[call-arg]
        self.generator = torch.Generator(self.device)
        self.step = 0
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, KL, examples
        self.history: dict[str, list[float]] = {name: [] for name in HISTORY}
        self.seconds = 0.0
        self.since = time.perf_counter()

    def random(self, purpose: str, index: int) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(self.settings.seed, purpose, index))

    def one_step(self, batch: Tensor) -> None:
        x = self.images.floats(batch).to(self.device)
        self.generator.manual_seed(derived_seed(self.settings.seed, "noise", self.step))
        shape = (self.estimator.noise_arrays, len(x), *self.model.code_shape)
        noise = self.model.kind.noise(shape, dtype=x.dtype, device=self.device, generator=self.generator)
        self.optimizer.zero_grad()
        loss, kl = backward(self.model, self.estimator, x, noise, self.settings.kl)
        self.optimizer.step()
        self.sums += torch.stack([loss, kl, torch.ones_like(loss)]).double() * len(x)
        self.step += 1

    def end_epoch(self, state: Path) -> None:
        loss, kl, examples = self.sums.tolist()
        if not math.isfinite(loss + kl):
            raise FloatingPointError(
                f"the loss is no longer finite after step {self.step}; the state of the epoch before is in {state}"
                " (a smaller lr may do)"
            )
        self.sums.zero_()
        of_validation = evaluate(self.model, self.validation, self.settings.tf, self.settings.seed)
        for name, value in zip(HISTORY, (loss / examples, kl / examples, *of_validation), strict=True):
            self.history[name].append(value)

    def save(self, path: str | Path, final: bool = False) -> None:
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now
        provenance = {
            "settings": dataclasses.asdict(self.settings),
            "data": {"name": self.images.name, "sha256": self.images.sha256, "images": len(self.images)},
            "validation": {"sha256": self.validation.sha256, "images": len(self.validation)},
            "history": {name: [float(f"{v:.7g}") for v in values] for name, values in self.history.items()},
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "gradlab": __version__,
            "torch": str(torch.__version__),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
        }
        training: dict[str, Tensor] = {}
        if not final:
            training = {"sums": self.sums}
            for index, values in self.optimizer.state_dict()["state"].items():
                training |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
        self.model.provenance = provenance
        checkpoints.write(path, self.model, training, provenance)

    def restore(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no interrupted training to resume; leave out --resume to begin one")
        model, training, provenance = checkpoints.read(path)
        asked = dataclasses.asdict(self.settings) | {"data": self.images.sha256}
        there = provenance["settings"] | {"data": provenance["data"]["sha256"]}
        # JSON made tuples lists; more epochs than planned are no other training
        other = [k for k in asked if k != "epochs" and str(asked[k]) != str(there.get(k))]
        if other:
            differences = ", ".join(f"{k} {there.get(k)} (asked: {asked[k]})" for k in other)
            raise ValueError(f"resume: {path} was trained with {differences}; give the same settings")
        self.model.load_state_dict(model.state_dict())
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {}
        for name, value in training.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                optimizer["state"].setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(optimizer)
        self.sums.copy_(training["sums"])
        self.step, self.history = provenance["step"], provenance["history"]
        self.seconds = provenance["seconds"]


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets the event that is yielded, so that no step is cut in two; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
