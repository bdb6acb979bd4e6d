"""Validation of arguments. Every message reads "argument: expected ..., got ...". Does not import torch."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import math
import struct
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import FrameType

MOST_NAMED = 40  # names of a message


class UnknownName(ValueError):
    """An unknown name. The message gives the near matches."""


class Moved(ValueError, TypeError):
    """A keyword argument that is now an option of a method object; the message gives the line to write."""


class Excluded(ValueError):
    """Arguments that do not go together."""


class SpaceTooLarge(ValueError):
    """A code space that is too large to enumerate."""


class BadFile(ValueError):
    """A file that is truncated, of another kind, or different from what its name promises."""


WRAPPERS = ("abc", "contextlib", "functools", "torch.utils._contextlib")  # between a caller's line and gradlab's


_collected: ContextVar[list[tuple[str, type[Warning]]] | None] = ContextVar("collected", default=None)


@contextlib.contextmanager
def collected() -> Iterator[list[tuple[str, type[Warning]]]]:
    """Yields a list that gets text and category of each `warn` of this thread in the block, in place of warnings."""
    found: list[tuple[str, type[Warning]]] = []
    before = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(before)


def warn(message: str | Warning, category: type[Warning] = UserWarning) -> None:
    """Warn at the first line outside of gradlab that led here, which the reader can change."""
    if (found := _collected.get()) is not None:
        found.append((str(message), type(message) if isinstance(message, Warning) else category))
        return
    frame, level, package = sys._getframe(1), 2, __name__.split(".")[0]
    while frame.f_back and (frame.f_globals.get("__name__", "").split(".")[0] == package or _wraps(frame)):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _wraps(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") in WRAPPERS


def unknown_name(argument: str, name: object, known: Iterable[str]) -> UnknownName:
    """The error for an unknown name, with the near matches or with the known names, the first `MOST_NAMED` of them."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    more = f", and {len(known) - MOST_NAMED:,} more" if len(known) > MOST_NAMED else ""
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known[:MOST_NAMED]) or 'none'}{more}"
    return UnknownName(f"{argument}: unknown name {name!r}; {hint}")


def temperature(argument: str, value: object) -> float:
    """The value as a finite float above 0. Raises ValueError for anything else.

    A tensor that requires grad is refused, because it gets no gradient here.
    """
    if getattr(value, "requires_grad", False):
        cure = "give its .item(); gradlab.decoupled_st_gumbel_softmax and estimators.gumbel_softmax learn temperatures"
        raise ValueError(f"{argument}: expected a number that takes no gradient, got requires_grad=True; {cure}")
    return positive(argument, value)


def positive(argument: str, value: object) -> float:
    """The value as a finite float above 0, without rounding errors (see `_meant`). Raises ValueError for others."""
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of several
        raise ValueError(f"{argument}: expected a finite number above 0, got {value!r}") from None
    if isinstance(value, bool) or not (math.isfinite(number) and number > 0):
        raise ValueError(f"{argument}: expected a finite number above 0, got {value!r}")
    return _meant(number)


def _meant(number: float) -> float:
    """The short decimal near a number: 0.9 for 0.8999999999999999 (np.arange) and for 0.8999999761581421 (float32).

    Users select a coordinate by its value, so it must equal the number that they write.
    """
    decimals = [(float(f"{number:.12g}"), 1e-14)]
    # few numbers are float32 by chance
    if number < 3e38 and struct.unpack("f", struct.pack("f", number))[0] == number:
        decimals.append((float(f"{number:.6g}"), 3e-7))
    near = (decimal for decimal, within in decimals if abs(decimal - number) <= within * number)
    return next(near, number)


def temperatures(argument: str, value: object) -> list[float]:
    """A list of floats, from one temperature or a one-dimensional sequence of distinct temperatures."""
    if isinstance(value, str):
        raise ValueError(f"{argument}: expected a number or a sequence of numbers, got {value!r}")
    if isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0:
        listed = [temperature(argument, v) for v in value]
        if not listed:
            raise ValueError(f"{argument}: expected at least one temperature, got an empty sequence")
        if len(set(listed)) < len(listed):
            raise ValueError(f"{argument}: expected distinct temperatures, got {listed}")
        return listed
    return [temperature(argument, value)]


def whole_number(argument: str, value: object, at_least: int, reason: str = "") -> int:
    """The value as an int of at least `at_least`, of 64 bits. Raises ValueError for anything else, with the reason."""
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = None
    if number is None or isinstance(value, bool) or number != value or number < at_least:
        because = f" ({reason})" if reason else ""
        raise ValueError(f"{argument}: expected a whole number of at least {at_least}{because}, got {value!r}")
    if number >= 2**64:
        raise ValueError(f"{argument}: expected a whole number below 2^64, got one of {number.bit_length():,} bits")
    return number


def count(*categories: int) -> str:
    """The number of configurations as text, 16^12 = 2.815e+14, from the number of categories of each latent.

    Only the powers if the number is too large for a float.
    """
    runs = [(n, len(list(alike))) for n, alike in itertools.groupby(categories)]
    powers = " x ".join(f"{n}^{latents}" for n, latents in runs)
    try:
        return f"{powers} = {float(math.prod(categories)):.4g}"
    except OverflowError:
        return powers


def size(number: int) -> str:
    """A number of bytes as text: 512 MiB, 7.3 TiB."""
    power = min(max(0, (int(number).bit_length() - 1) // 10), 8)
    units = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
    return f"{number:,} bytes" if power == 0 else f"{int(number) / 2 ** (10 * power):.3g} {units[power]}"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is exhausted. On a CPU torch raises a plain RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    of_torch = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED", "Cannot allocate memory")
    of_others = ("memory allocation failed", "nable to allocate", "bad_alloc")  # HDF5, numpy, C++
    return not isinstance(error, ValueError) and any(word in str(error) for word in of_torch + of_others)


def pass_on_memory(error: BaseException) -> None:
    """Raises an error that says that memory is exhausted: it is no fault of a model or a file."""
    if out_of_memory(error):
        raise error


# first bytes of a file: what it is, the kinds of files that it can serve as, and the commands that take it
_BEGINNINGS = {
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file (results)", ("results file",), "gradlab show, plot and report take it"),
    b"PK\x03\x04": (
        "a zip archive (torch.save or numpy.savez)",
        ("file of weights",),
        "gradlab bias --model MODULE:FACTORY takes a state dict as --weights",
    ),
    b"\x93NUMPY": ("a numpy array", ("file of observations",), "gradlab bias and gap take it as --observations"),
    b"\x89PNG": ("a picture", (), ""),
    b"%PDF": ("a PDF", (), ""),
    b"\x1f\x8b": ("a gzip archive (images)", (), "--data takes the folder that contains it"),
}
_PRINTED = bytes([*range(32, 127), *b"\t\n\r"])
_SAFETENSORS = (
    "a safetensors file (checkpoints)",
    ("checkpoint file", "file of weights"),
    "gradlab bias, gap and plot --reconstructions take it",
)


def present(path: str | Path, kind: str) -> Path:
    """The path, if it is a file that is not recognised as another kind of file.

    Raises BadFile for a folder or a file of another kind, with the command that takes it, and FileNotFoundError if
    there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        raise BadFile(f"{path}: expected a {kind}, got a folder")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such {kind}")
    with open(path, "rb") as file:
        start = file.read(512)
    known = next((about for begin, about in _BEGINNINGS.items() if start.startswith(begin)), None)
    if start[8:9] == b"{" and start[4:8] == bytes(4):  # after the size of its header
        known = _SAFETENSORS
    if not start:
        known = ("an empty file", (), "")
    elif known is None and start.translate(None, _PRINTED) == b"":
        known = ("a text file", ("file of observations",), "")  # whose message names numpy.save
    if known is not None and kind not in known[1]:
        what, _, cure = known
        raise BadFile(f"{path}: expected a {kind}, got {what}{cure and f' ({cure})'}")
    return path


def choice(argument: str, value: object, allowed: Sequence[str]) -> str:
    """The value, if it is one of the allowed names. Raises UnknownName for others."""
    if value not in allowed:
        raise unknown_name(argument, value, allowed)
    return str(value)
