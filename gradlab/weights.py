"""Weights of a model of one's own, from safetensors or a state dict of torch.save; no code of the file is run."""

from __future__ import annotations

import contextlib
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from . import checkpoints, errors, files
from .model import LatentModel, check_is_model

MOST_PICKLE = 2**21  # bytes that name the tensors of a state dict, some 10,000 of them
# what a dict of plain tensors asks for
_NEEDED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch (\w*Storage|Size)"
    r"|torch\.storage (Untyped|_Untyped)Storage"
)
_SHOWN = 3  # names in a message


def load_weights(model: LatentModel, path: str | Path) -> LatentModel:
    """Fill a model, in place, with the weights of a file, and return it in the file's precision.

    Parameters
    ----------
    model : LatentModel as its own code makes it
    path : safetensors, or what torch.save(model.state_dict(), path) wrote; of tensors that the model shares under
        several names one is enough

    Raises
    ------
    ValueError
        BadFile: a file that is neither, is cut short, compressed, holds values that are not finite or a pickle that
        asks for more than tensors, which is not read; names or shapes other than the model's. FileNotFoundError.

    Examples
    --------
    >>> from gradlab import networks
    >>> torch.save(gradlab.bundled("vae-8x4-mnist").state_dict(), "weights.pt")
    >>> model = gradlab.load_weights(networks.build("categorical-vae", {}), "weights.pt")
    """
    check_is_model(model)
    path = errors.present(path, "file of weights")
    with open(path, "rb") as file:
        start = file.read(9)
    is_archive = start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") and start[8:] != b"{"
    with _archive(path) if is_archive else _safetensors(path) as (shapes, tensor):
        own = model.state_dict()
        _check_names(path, own, shapes)
        tensors = {name: tensor(name) for name in shapes}
    _check_values(path, own, tensors)
    precision = {t.dtype for t in tensors.values() if t.is_floating_point()}
    if len(precision) > 1:
        names = " and ".join(sorted(map(str, precision)))
        raise errors.BadFile(f"{path}: its tensors are of {names}; one floating-point precision is needed")
    for of_file in precision:
        model.to(dtype=of_file)
    model.load_state_dict(tensors, strict=False)
    return model


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[tuple[dict[str, tuple[int, ...]], Callable[[str], Tensor]]]:
    try:
        checkpoints.check_header_size(path)
        with files.named_in_utf8(path) as name, safe_open(name, framework="pt") as file:
            yield {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}, file.get_tensor  # noqa: SIM118
    except SafetensorError as error:
        raise errors.BadFile(f"{path}: not a whole safetensors file ({error})") from None


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[tuple[dict[str, tuple[int, ...]], Callable[[str], Tensor]]]:
    """A zip archive of torch.save, its tensors left in the file until they are wanted."""
    _check_archive(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what torch raises at damaged archives is no closed list
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise errors.BadFile(f"{path}: no whole file of torch.save ({reason})") from None
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        what = f"a dict of {_names(found)}" if isinstance(found, dict) else f"a {type(found).__name__}"
        raise errors.BadFile(f"{path}: holds {what}; a state dict is needed, torch.save(model.state_dict(), FILE)")
    yield {str(name): tuple(t.shape) for name, t in found.items()}, {str(n): t for n, t in found.items()}.__getitem__


def _check_archive(path: Path) -> None:
    """BadFile for what is no archive of torch.save, unfolds when read, or whose pickle asks for more than tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            pickles = [m for m in members if m.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise errors.BadFile(f"{path}: an archive, but not of torch.save")
            size = sum(m.file_size for m in members)
            if any(m.compress_type != zipfile.ZIP_STORED for m in members) or size > path.stat().st_size:
                raise errors.BadFile(f"{path}: announces {size:,} bytes, compressed, which torch.save does not write")
            if pickles[0].file_size > MOST_PICKLE:
                raise errors.BadFile(f"{path}: its pickle has more than {MOST_PICKLE:,} bytes")
            content = archive.read(pickles[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        if path.open("rb").read(1) == b"\x80":
            raise errors.BadFile(f"{path}: a bare pickle, which may run any code; torch.save writes archives") from None
        raise errors.BadFile(f"{path}: no whole file of torch.save ({error})") from None
    more = next((asked for asked in _asked_for(path, content) if not _NEEDED.fullmatch(asked)), None)
    if more is not None:
        name = more.replace(" ", ".")
        raise errors.BadFile(f"{path}: its pickle asks for {name}, which no state dict needs; it is not read")


def _asked_for(path: Path, content: bytes) -> Iterator[str]:
    """ "MODULE NAME" of all that a pickle asks Python for."""
    try:
        for code, argument, _ in pickletools.genops(content):
            if code.name == "GLOBAL":
                yield str(argument)
            elif code.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):  # torch.save writes none
                yield f"{code.name.lower()} {argument or ''}".strip()
    except Exception as error:  # a damaged pickle
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise errors.BadFile(f"{path}: its pickle is damaged ({reason})") from None


def _check_names(path: Path, own: dict[str, Tensor], there: dict[str, tuple[int, ...]]) -> None:
    shared: dict[tuple[int, tuple[int, ...]], set[str]] = {}
    for name, tensor in own.items():
        shared.setdefault((tensor.data_ptr() if tensor.numel() else id(tensor), tuple(tensor.shape)), set()).add(name)
    missing = [name for names in shared.values() if not names & set(there) for name in sorted(names)[:1]]
    unexpected = [name for name in there if name not in own]
    if missing or unexpected:
        faults = {"lacks": missing, "has": unexpected}
        said = " and ".join(f"{verb} {_names(names)}" for verb, names in faults.items() if names)
        raise errors.BadFile(f"{path}: {said}; the model's tensors are {_names(own)}")
    for name, shape in there.items():
        if shape != tuple(own[name].shape):
            raise errors.BadFile(f"{path}: {name} has shape {shape}, the model needs {tuple(own[name].shape)}")


def _names(names: object) -> str:
    listed = [str(name)[:80] for name in names]  # type: ignore[attr-defined]
    more = len(listed) - _SHOWN
    return ", ".join(listed[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _check_values(path: Path, own: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != own[name].is_floating_point() or tensor.is_complex():
            raise errors.BadFile(f"{path}: {name} is of {tensor.dtype}, the model's of {own[name].dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise errors.BadFile(f"{path}: {name} holds values that are not finite (has training diverged?)")
