"""Training with any estimator: resumable bit for bit, every random number follows from (seed, step)."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
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

from . import __version__, checkpoints, errors, estimators, files, networks, progress
from .datasets import Images
from .estimators import Estimator, RunningMean
from .exact import losses_of_configurations
from .latents import derived_seed
from .model import LatentModel

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"radam": torch.optim.RAdam, "adam": torch.optim.Adam}
STATE = {"step", "exp_avg", "exp_avg_sq"}  # of these optimizers, per parameter
HISTORY = ("train_loss", "train_kl", "validation_loss", "validation_kl")  # per epoch; loss without KL


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides the final weights, but the images. Defaults: the paper's 8x4 VAE (appendix A.2)."""

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
        checked = {
            "tf": errors.temperature("tf", self.tf),
            "tb": errors.temperature("tb", self.tb),
            "optimizer": errors.choice("optimizer", self.optimizer, list(OPTIMIZERS)),
            "architecture": errors.choice("architecture", self.architecture, list(networks.ARCHITECTURES)),
            "batch_size": errors.whole_number("batch_size", self.batch_size, 1),
            "epochs": errors.whole_number("epochs", self.epochs, 1),
            "seed": errors.whole_number("seed", self.seed, 0),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        estimators.parse(self.estimator)  # a name, or name:key=value
        if "tf=" in self.estimator or "tb=" in self.estimator:
            raise ValueError(f"estimator: got {self.estimator!r}; its temperatures are given as tf and tb")
        if not isinstance(self.lr, int | float) or not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr: got {self.lr!r}; a learning rate is a finite number above 0")
        if not isinstance(self.kl, bool):
            raise ValueError(f"kl: got {self.kl!r}; give True or False")
        if not isinstance(self.config, dict):
            raise ValueError(f"config: got {self.config!r}; a dict of the architecture's arguments is needed")


# the paper's binary autoencoder (appendix A.1) at the temperatures its figure 2 found best; 20 epochs of its 100
BINARY_AUTOENCODER = Settings(
    architecture="binary-autoencoder",
    config={},
    tf=0.3,
    tb=3.0,
    kl=False,
    optimizer="adam",
    lr=3e-4,
    batch_size=64,
    epochs=20,
)


def backward(
    model: LatentModel,
    estimator: Estimator,
    x: Tensor,
    noise: Tensor,
    kl: bool = True,
    baseline: RunningMean | None = None,
) -> tuple[Tensor, Tensor]:
    """One backward pass of the batch's mean loss: the estimator's gradient for the encoder, else autograd's.

    Gradients are added to the parameters' `.grad`. Returns the batch means of the loss and of the KL term, in
    nats or the likelihood's unit. `noise` is `(array, example, latent, category)` (binary: without category);
    `baseline` is the running mean of an estimator that asks for one (`baseline_decay`), kept from step to step.
    """
    logits = model.logits(x)
    detached = logits.detach()
    points, loss, of_decoder, derivative = _evaluated(model, estimator, x, detached, noise)
    estimate = estimator.estimate(
        model.kind, detached, noise, points, baseline.centre(loss) if baseline else loss, derivative
    )
    divergence = model.kind.kl_to_uniform(logits).mean() if kl else of_decoder.new_zeros(())
    heads, slopes = [logits], [estimate / len(x)]
    if kl:
        heads.append(divergence)
        slopes.append(torch.ones_like(divergence))
    torch.autograd.backward(heads, slopes)
    return of_decoder, divergence.detach()


def _evaluated(
    model: LatentModel, estimator: Estimator, x: Tensor, logits: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Points, losses (evaluation, example), the batch mean of the decoder's loss, and df/dz; the decoder's backward."""
    points = estimator.points(model.kind, logits, noise)
    weights = estimator.weights(model.kind, logits, points)
    if estimator.all_configurations:  # the decoder need not see them once per example
        loss = losses_of_configurations(model, x, 0, len(points)).T
    else:
        observed = x if points.shape[0] == 1 else x.repeat(points.shape[0], *([1] * (x.ndim - 1)))
        codes = points.flatten(0, 1).requires_grad_(estimator.uses_derivative)
        loss = model.losses(codes, observed).reshape(points.shape[:2])
    of_decoder = (loss.mean(0) if weights is None else (weights * loss).sum(0)).mean()
    derivative = None
    if estimator.uses_derivative and weights is not None:
        # of the loss itself, also where its share is 0
        derivative = torch.autograd.grad(loss.sum(), codes, retain_graph=True)[0].reshape(points.shape)
    of_decoder.backward()
    if estimator.uses_derivative and weights is None:
        derivative = codes.grad.reshape(points.shape) * loss.numel()  # type: ignore[union-attr]
    return points, loss.detach(), of_decoder.detach(), derivative


@torch.no_grad()
def evaluate(model: LatentModel, images: Images, tf: float, seed: int, batch: int = 1000) -> tuple[float, float]:
    """Mean loss at one code per image from softmax(l/tf), and mean KL. The noise depends on `seed` alone."""
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

    The state is written to `resume_path(out)` after every epoch and on Ctrl-C, and removed at the end;
    `resume=True` goes on from there to the same weights, bit for bit, as an unbroken run on the same machine.
    `keep_every=10` also keeps the model of every tenth epoch, as NAME-epoch0010.safetensors.

    Raises
    ------
    ValueError
        Settings out of range, images that do not fit; `resume` with a state of other settings or images.
    FileExistsError
        The state of an interrupted training is there and `resume` was not given: it is not overwritten.
    FileNotFoundError
        `resume` without a state to go on from.
    FloatingPointError
        The loss or a weight is no longer finite; the last finite state is kept.
    KeyboardInterrupt
        On Ctrl-C, once the state is written.
    """
    keep_every = errors.whole_number("keep_every", keep_every, 0)
    target = files.writable(out)
    state = resume_path(target)
    if state.is_file() and not resume:
        raise FileExistsError(
            f"{state}: an interrupted training is there; go on with it (--resume), or remove it to begin anew"
        )
    run = _Run(settings, images, validation, device)
    steps, total = run.steps, run.total
    if resume:
        run.restore(state)
    with _interruptible() as stop, progress.bar("training", total, shown, done=run.step) as advance:
        while run.step < total:
            epoch = run.step // steps
            order = torch.randperm(len(images), generator=run.random("order", epoch))
            for batch in order.split(settings.batch_size)[run.step % steps :]:
                run.one_step(batch)
                advance()
                if stop.is_set():
                    break
            if run.step % steps == 0:
                run.end_epoch(state)
                figures = {"validation": f"{run.history['validation_loss'][-1]:.4g}"}
                advance(0, epoch=f"{epoch + 1}/{settings.epochs}", **figures)
                if keep_every and (epoch + 1) % keep_every == 0:
                    kept = f"{target.stem}-epoch{epoch + 1:04d}{target.suffix}"
                    run.save(target.with_name(kept), final=True)
            run.check_finite(state)
            run.save(state)
            if stop.is_set():
                at = f"stopped at step {run.step} of {total}"
                raise KeyboardInterrupt(f"{at}; --resume goes on from {state}")
    run.save(target, final=True)
    state.unlink(missing_ok=True)
    return run.model


class _Run:
    """A training under way: model, optimizer, step, running sums of the epoch, history."""

    def __init__(self, settings: Settings, images: Images, validation: Images, device: str):
        self.settings, self.images, self.validation = settings, images, validation
        self.device = torch.device(device)
        model = networks.build(settings.architecture, settings.config, settings.seed)
        _check_fit(model, "images", images)
        _check_fit(model, "validation", validation)
        self.model = model.to(self.device)
        self.estimator = estimators.parse(settings.estimator).at(settings.tf, settings.tb)
        if model.kind.name not in self.estimator.kinds:
            kinds = " and ".join(self.estimator.kinds)
            raise ValueError(f"estimator: {settings.estimator} is for {kinds} latents, not {model.kind.name}")
        self.estimator.evaluations_at(self.model.kind, torch.empty(1, *self.model.code_shape))  # refuses large spaces
        decay = self.estimator.baseline_decay
        self.baseline = None if decay is None else RunningMean(decay)
        self.steps = -(-len(images) // settings.batch_size)  # per epoch
        self.total = settings.epochs * self.steps
        # foreach: the update as few large operations; on two cores the step is a quarter shorter
        optimizer: Any = OPTIMIZERS[settings.optimizer]
        self.optimizer = optimizer(self.model.parameters(), lr=settings.lr, foreach=True)
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
        loss, kl = backward(self.model, self.estimator, x, noise, self.settings.kl, self.baseline)
        self.optimizer.step()
        self.sums += torch.stack([loss, kl, torch.ones_like(loss)]).double() * len(x)
        self.step += 1

    def end_epoch(self, state: Path) -> None:
        self.check_finite(state)
        loss, kl, examples = self.sums.tolist()
        self.sums.zero_()
        of_validation = evaluate(self.model, self.validation, self.settings.tf, self.settings.seed)
        if not all(map(math.isfinite, of_validation)):
            raise self._diverged(state)
        for name, value in zip(HISTORY, (loss / examples, kl / examples, *of_validation), strict=True):
            self.history[name].append(value)

    def check_finite(self, state: Path) -> None:
        """FloatingPointError before a state that cannot be gone on from replaces one that can."""
        if not all(bool(torch.isfinite(t).all()) for t in (self.sums, *self.model.parameters())):
            raise self._diverged(state)

    def _diverged(self, state: Path) -> FloatingPointError:
        kept = f"; the last finite state is in {state}" if state.is_file() else ""
        return FloatingPointError(
            f"the loss or a weight is no longer finite after step {self.step}{kept} (a smaller lr may do)"
        )

    def about(self) -> dict[str, Any]:
        return {
            "settings": dataclasses.asdict(self.settings),
            "data": {"name": self.images.name, "sha256": self.images.sha256, "images": len(self.images)},
            "validation": {"sha256": self.validation.sha256, "images": len(self.validation)},
        }

    def save(self, path: str | Path, final: bool = False) -> None:
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now
        provenance = {
            **self.about(),
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
            if self.baseline is not None:
                training["baseline"] = self.baseline.state
            for index, values in self.optimizer.state_dict()["state"].items():
                training |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
        self.model.provenance = provenance
        checkpoints.write(path, self.model, training, provenance)

    def restore(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no interrupted training; begin one without --resume")
        model, training, provenance = checkpoints.read(path)
        try:
            difference = self._difference(provenance)
            if not difference:
                self._take(model, training, provenance)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError) as error:
            raise errors.BadFile(f"{path}: no whole state of a training ({error!r:.200})") from None
        if difference:
            raise ValueError(f"resume: {path} {difference}")

    def _difference(self, provenance: dict[str, Any]) -> str:
        """What keeps the state from being of this training; "" if nothing does."""
        asked, there = (_identity(about) for about in (self.about(), provenance))
        other = [f"{k} {there.get(k)} (asked: {asked[k]})" for k in asked if asked[k] != there.get(k)]
        if other:
            return f"was trained with {', '.join(other)}; give the same settings"
        if provenance["step"] > self.total:
            done = provenance["step"] // self.steps
            return f"has gone through {done} epochs (asked: epochs {self.settings.epochs}); give no fewer"
        return ""

    def _take(self, model: LatentModel, training: dict[str, Tensor], provenance: dict[str, Any]) -> None:
        self.model.load_state_dict(model.state_dict())
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {}
        shapes = [p.shape for p in self.model.parameters()]
        for name, value in training.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                if value.shape not in (torch.Size([]), shapes[int(index)]):
                    raise ValueError(f"{name} has shape {tuple(value.shape)}")
                optimizer["state"].setdefault(int(index), {})[key] = value
        if any(set(state) != STATE for state in optimizer["state"].values()):
            raise ValueError(f"the optimizer's state is not {sorted(STATE)}")
        self.optimizer.load_state_dict(optimizer)
        self.sums.copy_(training["sums"].reshape(3))
        if self.baseline is not None:
            self.baseline.state = training["baseline"].reshape(2)
        self.step = errors.whole_number("step", provenance["step"], 1)
        self.history = {name: [float(v) for v in provenance["history"][name]] for name in HISTORY}
        if any(len(values) != self.step // self.steps for values in self.history.values()):
            raise ValueError(f"the history is not of {self.step // self.steps} epochs")
        self.seconds = float(provenance["seconds"])


def _identity(about: dict[str, Any]) -> dict[str, Any]:
    """What two runs of one training share: not `epochs`, as more than planned are no other training."""
    plain = json.loads(json.dumps(about))  # lists for tuples, as in a file
    images = {f"{k} {of}": plain[k][of] for k in ("data", "validation") for of in ("sha256", "images")}
    return {k: v for k, v in plain["settings"].items() if k != "epochs"} | images


def _check_fit(model: LatentModel, argument: str, images: Images) -> None:
    """ValueError unless the model takes such images."""
    if not len(images):
        raise ValueError(f"{argument}: got none; give at least one image")
    x = images.floats(slice(0, 1))
    model.eval()  # one image must not move a layer's running statistics
    try:
        with torch.no_grad():
            model.logits(x)
            model.losses(torch.zeros(1, *model.code_shape), x)
    except (RuntimeError, ValueError) as error:
        got = f"{argument}: got images of shape {tuple(images.pixels.shape[1:])}"
        reason = str(error).splitlines()[0]
        raise ValueError(f"{got}, which do not fit config {model.config} ({reason})") from None
    finally:
        model.train()


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets the event yielded, so that no step is cut in two; a second one interrupts at once."""
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
