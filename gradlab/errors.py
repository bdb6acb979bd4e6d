"""Validation, in one place: every message names the argument, what was expected and what came. Imports no torch."""

from __future__ import annotations

import difflib
import itertools
import math
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path


class UnknownName(ValueError):
    """A name that is in no list; the message gives the near matches."""


class Moved(ValueError, TypeError):
    """A keyword argument that is now an option of a method object; the message gives the line to write."""


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
    if getattr(value, "requires_grad", False):
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
    # few numbers are float32 by chance
    if number < 3e38 and struct.unpack("f", struct.pack("f", number))[0] == number:
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
