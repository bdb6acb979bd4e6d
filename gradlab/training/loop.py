"""Training with any estimator. It can be resumed bit for bit: every random number depends only on (seed, step)."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .. import checkpoints, errors, files, outputs
from ..datasets import Images
from ..model import LatentModel
from ..numerics import default_dtype, plain_arithmetic
from ..progress import bar
from ..settings import Settings
from .engines import Engine, engine_for
from .run import Run
from .tracking import Tracks


def resume_path(out: str | Path) -> Path:
    """The file in which a training that writes `out` keeps its state until it ends.

    Examples
    --------
    >>> gradlab.training.resume_path("vae.safetensors").name
    'vae.resume.safetensors'
    """
    out = Path(out)
    return out.with_name(f"{out.stem}.resume{out.suffix}")


def kept_path(out: str | Path, epoch: int) -> Path:
    """The file in which a training that writes `out` keeps the model of an epoch."""
    out = Path(out)
    return out.with_name(f"{out.stem}-epoch{epoch:04d}{out.suffix}")


def train(
    settings: Settings,
    images: Images,
    validation: Images,
    out: str | Path,
    *,
    resume: bool | str = False,
    keep_every: int = 0,
    device: str = "cpu",
    progress: bool = False,
    track: Sequence[str] = (),
    track_every: int | Iterable[int] = 10,
    track_images: int = 100,
    track_draws: int | None = None,
    tf32: bool = False,
) -> LatentModel:
    """Trains a built-in model, writes it to `out` and returns it.

    The state is written to `resume_path(out)` after every epoch and on Ctrl-C, and removed at the end. `resume=True`
    continues from it and ends with the same weights, bit for bit, as an uninterrupted run on the same machine. All
    computation uses float32, independent of the caller's autocast and precision. On a GPU a step is captured once as a
    CUDA graph and replayed.

    Parameters
    ----------
    settings : all settings of the training
    images, validation : images for training and for the validation loss
    out : checkpoint file
    resume : True continues an interrupted training. "auto" continues it if there is one, begins if not, and returns the
        model if the training is finished, so that the same call continues a job that is started again
    keep_every : 10 also keeps the model of every tenth epoch, as NAME-epoch0010.safetensors
    device : "cpu", "cuda", "cuda:1", ...
    progress : show progress on standard error
    track : "bias" (`gradlab.bias` of the training's estimator), "gap" (`gradlab.gap`) or both. Bias is measured against
        the exact gradient or, if the code space is too large to enumerate, against an unbiased reference (rloo, or arms
        with n = 4 for binary latents), with at least 64 draws. Tracking does not change the training. The results are
        written to `track_path(out, kind)` after each measurement; the file of an earlier training is replaced.
    track_every : measure at epoch 0, every `track_every` epochs and the last epoch, or a list of epochs
    track_images : number of validation images for tracking, taken from the start
    track_draws : number of draws for tracking; 1,024 for bias and 64 for gap if None
    tf32 : allow TensorFloat-32 in matrix products on a GPU

    Raises
    ------
    ValueError
        Invalid settings or images, or `resume` with a state or tracked results of other settings or images.
    FileExistsError
        The state of an interrupted training exists and `resume` is False, `out` exists with resume="auto" and is not
        this training, or a file that no training wrote has the name of a tracked file. These files are not overwritten.
    FileNotFoundError
        `resume` without a state or without tracked results.
    FloatingPointError
        The loss or a weight is not finite. The last finite state is kept.
    KeyboardInterrupt
        Ctrl-C, after the state is written.

    Examples
    --------
    >>> images = gradlab.datasets.load("mnist-sample").first(60)
    >>> settings = gradlab.training.Settings(config={"latents": 2, "categories": 3, "hidden": [8]}, epochs=1)
    >>> model = gradlab.training.train(settings, images, images, "own.safetensors")
    >>> list(model.provenance["history"])
    ['train_loss', 'train_kl', 'validation_loss', 'validation_kl', 'validation_kl_sampled', 'tf', 'tb']
    """
    with default_dtype(images.floats(slice(0, 1)).dtype), plain_arithmetic(tf32):
        run = Run(settings, images, validation, device, tf32)
        tracks = Tracks(run, files.writable(out), track, track_every, track_images, track_draws)
        return _train(Training(run, Path(out), tracks, keep_every), resume, progress)


def _train(training: Training, resume: bool | str, progress: bool) -> LatentModel:
    run = training.run
    if resume not in (True, False, "auto"):
        raise ValueError(f"resume: expected True, False or 'auto', got {resume!r}")
    if resume == "auto":
        resume = training.state.is_file()
        if not resume and training.target.is_file():
            return training.finished()
    training.begin(bool(resume))
    with interruptible() as stop, bar("training", run.total, progress, done=run.step, pieces=1) as advance:
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
    """Decides when states are written: after every epoch or, if this takes over a second, in 5 % of the time.

    A stack of a hundred runs takes a second or two per epoch and has gigabytes of state.
    """

    def __init__(self) -> None:
        self.due, self._took, self._since = True, 0.0, time.monotonic()

    def next_epoch(self) -> None:
        """Decides for the next epoch."""
        self.due = self._took < 1 or time.monotonic() - self._since >= 20 * self._took
        if self.due:
            self._took = 0.0

    def save(self, run: Run, state: Path) -> None:
        started = time.monotonic()
        run.save(state)
        self._since = time.monotonic()
        self._took += self._since - started


class Training:
    """A run and its files: state, model and tracked results."""

    def __init__(self, run: Run, target: Path, tracks: Tracks, keep_every: int):
        self.run, self.target, self.tracks = run, target, tracks
        self.keep_every = errors.whole_number("keep_every", keep_every, 0)
        self.state = resume_path(target)

    def begin(self, resume: bool) -> None:
        """Restores the saved state if `resume`, else starts from the beginning. Raises OSError for files of others."""
        every, epochs = self.keep_every, self.run.settings.epochs
        kept = (kept_path(self.target, epoch) for epoch in range(every, epochs + 1, every)) if every else ()
        files.writable(self.state)
        for path in (self.target, *kept):
            outputs.check(files.writable(path), outputs.CHECKPOINT, "out")
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

    def finished(self) -> LatentModel:
        """The model that this training has written. Raises FileExistsError if another one is there."""
        run = self.run
        model, _, provenance = checkpoints.read(self.target)
        try:
            difference = run.difference(provenance)
            whole = provenance["step"] == run.total
        except (KeyError, TypeError, AttributeError) as error:
            raise errors.BadFile(f"{self.target}: expected a trained model, got another ({error!r:.200})") from None
        if difference or not whole:
            got = difference or f"ended after step {provenance['step']} of {run.total}"
            raise FileExistsError(f"{self.target}: expected no file or this training, got one that {got}")
        return model.to(run.device)

    def settle(self, stop: threading.Event, engine: Engine, pace: Pace) -> None:
        """Ends an epoch, or its part up to the step at which `stop` was set: history, state, tracking."""
        run = self.run
        if not engine.finite(run):  # checked first, so that a bad state does not replace a good one
            raise run.diverged(self.state)
        if run.step % run.steps == 0:
            run.end_epoch(engine.figures(run), self.state)
            epoch = run.step // run.steps
            if self.keep_every and epoch % self.keep_every == 0:
                run.save(kept_path(self.target, epoch), final=True)
        if pace.due or stop.is_set():
            pace.save(run, self.state)
        run.lap()
        if not stop.is_set():
            self.tracks.measure()  # after the state is written, so that a resumed run measures it

    def end(self) -> None:
        self.run.detach()
        self.run.save(self.target, final=True)
        files.remove(self.state)


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yields an event that Ctrl-C sets, so that no step is interrupted. A second Ctrl-C interrupts at once."""
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
