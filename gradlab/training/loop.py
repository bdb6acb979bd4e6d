"""Training with any estimator: resumable bit for bit, every random number follows from (seed, step)."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .. import errors, files
from ..datasets import Images
from ..model import LatentModel
from ..numerics import plain_arithmetic
from ..progress import bar
from .engines import Engine, engine_for
from .run import Run
from .settings import Settings
from .tracking import Tracks


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
    progress: bool = False,
    track: Sequence[str] = (),
    track_every: int | Iterable[int] = 10,
    track_images: int = 100,
    track_draws: int | None = None,
    tf32: bool = False,
) -> LatentModel:
    """Train a built-in model, write it to `out`, and return it.

    The state is written to `resume_path(out)` after every epoch and on Ctrl-C, and removed at the end;
    `resume=True` goes on from there to the same weights, bit for bit, as an unbroken run on the same machine.
    `keep_every=10` also keeps the model of every tenth epoch, as NAME-epoch0010.safetensors.

    `track` names what is measured on the way, "bias" (`gradlab.bias`, of the training's estimator) or "gap"
    (`gradlab.gap`), at epoch 0, every `track_every`-th and the last, or at the epochs that `track_every` lists: at the
    temperatures in force, on the first `track_images` validation images (all, where there are fewer), with
    `track_draws` draws (1,024 for bias, 64 for gap). Bias is measured against the exact gradient or, where the code
    space is too large to enumerate, against an unbiased reference, rloo (of binary latents arms with n = 4), whose
    draws are whole batches, 64 at least. The figures of every epoch are in `track_path(out, kind)` as soon as they are
    measured. They do not change the training, and `resume` goes on with them too. A file that an earlier training
    tracked is replaced.

    Numbers are float32 throughout, whatever autocast and precision the caller has set; `tf32` lets a GPU's matrix
    products use TensorFloat-32. On a GPU a step is captured once as a CUDA graph and replayed.

    Raises
    ------
    ValueError
        Settings out of range, images that do not fit; `resume` with a state or tracked figures of other settings or
        images.
    FileExistsError
        The state of an interrupted training is there and `resume` was not given, or a file that no training wrote is
        where tracked figures go: they are not overwritten.
    FileNotFoundError
        `resume` without a state, or without tracked figures, to go on from.
    FloatingPointError
        The loss or a weight is no longer finite; the last finite state is kept.
    KeyboardInterrupt
        On Ctrl-C, once the state is written.
    """
    with plain_arithmetic(tf32):
        run = Run(settings, images, validation, device, tf32)
        tracks = Tracks(run, files.writable(out), track, track_every, track_images, track_draws)
        return _train(Training(run, Path(out), tracks, keep_every), resume, progress)


def _train(training: Training, resume: bool, progress: bool) -> LatentModel:
    run = training.run
    training.begin(resume)
    with interruptible() as stop, bar("training", run.total, progress, done=run.step) as advance:
        training.tracks.measure()
        engine, pace = engine_for([run]), Pace()
        while run.step < run.total:
            pace.next_epoch()
            engine.epoch(stop, advance)
            training.settle(stop, engine, pace)
            if run.step % run.steps == 0:
                figures = {"validation": f"{run.history['validation_loss'][-1]:.4g}"}
                advance(0, epoch=f"{run.step // run.steps}/{run.settings.epochs}", **figures)
            if stop.is_set():
                at = f"stopped at step {run.step} of {run.total}"
                raise KeyboardInterrupt(f"{at}; --resume continues from {training.state}")
    training.end()
    return run.model


class Pace:
    """When states are written: after every epoch or, where that takes over a second, in a twentieth of the time.

    A stack of a hundred runs makes an epoch in a second or two and has gigabytes of state.
    """

    def __init__(self) -> None:
        self.due, self._took, self._since = True, 0.0, time.monotonic()

    def next_epoch(self) -> None:
        """Decide for the epoch that begins."""
        self.due = self._took < 1 or time.monotonic() - self._since >= 20 * self._took
        if self.due:
            self._took = 0.0

    def save(self, run: Run, state: Path) -> None:
        started = time.monotonic()
        run.save(state)
        self._since = time.monotonic()
        self._took += self._since - started


class Training:
    """A run with the files it leaves: its state, its model, what is tracked along it."""

    def __init__(self, run: Run, target: Path, tracks: Tracks, keep_every: int):
        self.run, self.target, self.tracks = run, target, tracks
        self.keep_every = errors.whole_number("keep_every", keep_every, 0)
        self.state = resume_path(target)

    def begin(self, resume: bool) -> None:
        """Go on from the state there is, or from the start."""
        if resume:
            self.run.restore(self.state)
            self.tracks.resume()
            return
        if self.state.is_file():
            raise FileExistsError(
                f"{self.state}: this interrupted training exists; continue it with --resume, or remove the file to"
                " start again"
            )
        self.tracks.begin()

    def settle(self, stop: threading.Event, engine: Engine, pace: Pace) -> None:
        """After the steps of an epoch, or those up to where `stop` was set."""
        run = self.run
        if not engine.finite(run):  # before a state that cannot be gone on from replaces one that can
            raise run.diverged(self.state)
        if run.step % run.steps == 0:
            run.end_epoch(engine.figures(run), self.state)
            epoch = run.step // run.steps
            if self.keep_every and epoch % self.keep_every == 0:
                kept = f"{self.target.stem}-epoch{epoch:04d}{self.target.suffix}"
                run.save(self.target.with_name(kept), final=True)
        if pace.due or stop.is_set():
            pace.save(run, self.state)
        run.lap()
        if not stop.is_set():
            self.tracks.measure()  # after the state: a run interrupted here measures when resumed

    def end(self) -> None:
        self.run.detach()
        self.run.save(self.target, final=True)
        self.state.unlink(missing_ok=True)


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
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
