"""Validation, in one place: every message names the argument, what came, and what would do."""

from __future__ import annotations

import collections
import contextlib
import difflib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor


class UnknownName(ValueError):
    """A name that is in no list; the message gives the near matches."""


class SpaceTooLarge(ValueError):
    """A code space with more configurations than may be enumerated."""


class BadFile(ValueError):
    """A file that is cut short, foreign, or not what its name promises."""


def unknown_name(argument: str, name: object, known: Iterable[str]) -> UnknownName:
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return UnknownName(f"{argument}: unknown name {name!r}; {hint}")


def temperature(argument: str, value: object) -> float:
    """A finite positive float, or ValueError. A tensor that requires grad is refused: it would get no gradient.

    Rounding is undone (see `_meant`).
    """
    if isinstance(value, Tensor) and value.requires_grad:
        cure = "give its .item(); gradlab.decoupled_st_gumbel_softmax and estimators.gumbel_softmax learn temperatures"
        raise ValueError(f"{argument}: expected a number that takes no gradient, got requires_grad=True; {cure}")
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of several
        raise ValueError(f"{argument}: got {value!r}; a temperature is a finite number above 0") from None
    if isinstance(value, bool) or not (math.isfinite(number) and number > 0):
        raise ValueError(f"{argument}: got {value!r}; a temperature is a finite number above 0")
    return _meant(number)


def _meant(number: float) -> float:
    """The decimal that was meant: 0.9 for 0.8999999999999999, of np.arange, and for 0.8999999761581421, its float32.

    A coordinate is selected by its value, so it must be the one that people write.
    """
    decimals = [(float(f"{number:.12g}"), 1e-14)]
    if torch.tensor(number, dtype=torch.float32).item() == number:  # of few numbers that are no float32 by origin
        decimals.append((float(f"{number:.6g}"), 3e-7))
    near = (decimal for decimal, within in decimals if abs(decimal - number) <= within * number)
    return next(near, number)


def positive(argument: str, value: object) -> float:
    """A finite float above 0, or ValueError."""
    try:
        return temperature(argument, value)
    except ValueError:
        raise ValueError(f"{argument}: got {value!r}; a finite number above 0 would do") from None


def temperatures(argument: str, value: object) -> list[float]:
    """One temperature or a one-dimensional sequence of distinct temperatures, as a list of floats."""
    if isinstance(value, str):
        raise ValueError(f"{argument}: got {value!r}; give a number or a sequence of numbers")
    if isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0:
        listed = [temperature(argument, v) for v in value]
        if not listed:
            raise ValueError(f"{argument}: got an empty sequence; give at least one temperature")
        if len(set(listed)) < len(listed):
            raise ValueError(f"{argument}: got {listed}; each temperature may stand there once")
        return listed
    return [temperature(argument, value)]


def whole_number(argument: str, value: object, at_least: int, reason: str = "") -> int:
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = None
    if number is None or isinstance(value, bool) or number != value or number < at_least:
        because = f" ({reason})" if reason else ""
        raise ValueError(f"{argument}: got {value!r}; give a whole number of at least {at_least}{because}")
    return number


def count(*categories: int) -> str:
    """The number of configurations in words, 16^12 = 2.815e+14, from the number of categories of each latent.

    Beyond what a float holds the powers say it all.
    """
    runs = [(n, len(list(alike))) for n, alike in itertools.groupby(categories)]
    powers = " x ".join(f"{n}^{latents}" for n, latents in runs)
    try:
        return f"{powers} = {float(math.prod(categories)):.4g}"
    except OverflowError:
        return powers


Check = Callable[[Tensor, Callable[[], None]], None]


def at_once(good: Tensor, complain: Callable[[], None]) -> None:
    """Call `complain`, which raises where it finds a fault, unless `good`, one truth value."""
    if not bool(good):
        complain()


def finite(argument: str, values: Tensor, cure: str, check: Check = at_once) -> None:
    """ValueError with the first index at which `values` is not finite."""
    good = torch.isfinite(values)

    def complain() -> None:
        at = tuple(torch.nonzero(~good)[0].tolist())
        raise ValueError(f"{argument}: {values[at].item()} at index {at} of shape {tuple(values.shape)}; {cure}")

    check(good.all(), complain)


@contextlib.contextmanager
def checks(device: torch.device) -> Iterator[Check]:
    """Yields what checks the blocks of a loop: `at_once`; on a GPU each check is read when two more have been made.

    Read at once, the GPU would stand idle until the host had queued the next block. The host is never further ahead
    than that, so that progress shown is work done, and Ctrl-C ends it.
    """
    if device.type != "cuda":
        yield at_once
        return
    waiting: collections.deque[tuple[torch.cuda.Event, Tensor, Callable[[], None]]] = collections.deque()

    def read() -> None:
        copied, good, complain = waiting.popleft()
        copied.synchronize()
        try:
            at_once(good, complain)
        except Exception:
            waiting.clear()  # what is found first is said
            raise

    def late(good: Tensor, complain: Callable[[], None]) -> None:
        here = torch.empty(good.shape, dtype=good.dtype, pin_memory=True).copy_(good, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(good.device))
        waiting.append((copied, here, complain))
        if len(waiting) > 2:
            read()

    try:
        yield late
    except Exception:
        while waiting:  # what went wrong first is the cause
            read()
        raise
    while waiting:
        read()


# how files begin: what they are, as which kinds they are wanted, and what takes them
_BEGINNINGS = {
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file, as of results", ("results file",), "gradlab show, plot and report take it"),
    b"PK\x03\x04": (
        "a zip archive, as of torch.save or numpy.savez",
        ("file of weights",),
        "gradlab bias --model MODULE:FACTORY takes a state dict as --weights",
    ),
    b"\x93NUMPY": ("an array of numpy", ("file of observations",), "gradlab bias and gap take it as --observations"),
    b"\x89PNG": ("a picture", (), ""),
    b"%PDF": ("a PDF", (), ""),
    b"\x1f\x8b": ("a gzip archive, as of images", (), "--data takes the folder of such files"),
}
_SAFETENSORS = (
    "a safetensors file, as of checkpoints",
    ("checkpoint file", "file of weights"),
    "gradlab bias, gap and plot --reconstructions take it",
)


def present(path: str | Path, kind: str) -> Path:
    """`path`, where a file is that does not begin as one of another kind.

    BadFile for a folder or another kind of file, with what takes it; FileNotFoundError for none.
    """
    path = Path(path)
    if path.is_dir():
        raise BadFile(f"{path}: a folder; give the {kind} itself")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such {kind}")
    with open(path, "rb") as file:
        start = file.read(10)
    known = next((about for begin, about in _BEGINNINGS.items() if start.startswith(begin)), None)
    if start[8:9] == b"{" and start[4:8] == bytes(4):  # behind the size of its header
        known = _SAFETENSORS
    if known is not None and kind not in known[1]:
        what, _, cure = known
        raise BadFile(f"{path}: expected a {kind}, got {what}{cure and f' ({cure})'}")
    return path


def choice(argument: str, value: object, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise unknown_name(argument, value, allowed)
    return str(value)


def precision_and_place(dtype: object, device: object) -> None:
    """ValueError unless None or a floating-point dtype, and None or a device that can be used here."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype: got {dtype!r}; a floating-point one would do, torch.float32 or torch.float64")
    if device is not None:
        try:
            torch.zeros(1, device=device).item()  # type: ignore[call-overload]
        except (RuntimeError, AssertionError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"device: {device!r} cannot be used here ({reason}); 'cpu' would do") from None
