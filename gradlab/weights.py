"""Weights of your own model, from safetensors or a state dict of torch.save. No code of the file runs."""

from __future__ import annotations

import contextlib
import functools
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from . import checkpoints, errors, files, saved_names
from .model import LatentModel, check_is_model

MOST_PICKLE = 2**21  # bytes; enough for the names of about 10,000 tensors
# the names that a pickle of a dict of plain tensors imports
_NEEDED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch (\w*Storage|Size)"
    r"|torch\.storage (Untyped|_Untyped)Storage"
)
_SHOWN = 3  # names in a message

Read = Callable[[str], Tensor]  # a tensor by its name in the file


def load_weights(model: LatentModel, path: str | Path) -> LatentModel:
    """Loads the weights of a file into a model, in place, and returns the model in the precision of the file.

    Of several precisions in a file, half weights beside norms in float32, the model gets the one that holds them all.

    Parameters
    ----------
    model : the LatentModel
    path : a safetensors file, or a file of torch.save(model.state_dict(), path), also inside a checkpoint such as
        {"state_dict": ..., "epoch": 3}. Names may have the prefixes `module.`, `_orig_mod.` and `model.`, the first two
        also inside. A tensor that the model uses under several names may be stored under one of them.

    Raises
    ------
    BadFile, a ValueError
        A file of another kind, a truncated or compressed file, values that are not finite, a pickle that contains
        more than tensors and plain values (it is not read), names or shapes that differ from the model's, or several
        state dicts that fit.
    FileNotFoundError
        The file does not exist.

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
    own = model.state_dict()
    with _archive(path, own) if is_archive else _safetensors(path) as (shapes, tensor):
        try:
            names = saved_names.own_names(own, shapes)
        except ValueError as error:
            raise errors.BadFile(f"{path}: {error}") from None
        _check_names(path, own, {names[name]: shape for name, shape in shapes.items()})
        tensors = {names[name]: tensor(name) for name in shapes}
    _check_values(path, own, tensors)
    precisions = {t.dtype for t in tensors.values() if t.is_floating_point()}
    if precisions:
        model.to(dtype=functools.reduce(torch.promote_types, precisions))
    model.load_state_dict(tensors, strict=False)
    return model


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[tuple[dict[str, tuple[int, ...]], Callable[[str], Tensor]]]:
    try:
        checkpoints.check_header_size(path)
        with files.named_in_utf8(path) as name, safe_open(name, framework="pt") as file:
            names, about = list(file.keys()), file.metadata() or {}
            if len({*checkpoints.METADATA} & {*about}) > 1:  # of gradlab; files of others may have a format
                checkpoints.check_digest(path, about, {name: file.get_tensor(name) for name in names})
            yield {name: tuple(file.get_slice(name).get_shape()) for name in names}, file.get_tensor
    except SafetensorError as error:
        errors.pass_on_memory(error)
        raise errors.BadFile(f"{path}: expected a complete safetensors file, got a damaged one ({error})") from None


@contextlib.contextmanager
def _archive(path: Path, own: dict[str, Tensor]) -> Iterator[tuple[dict[str, tuple[int, ...]], Read]]:
    """Yields the shapes in a zip archive of torch.save, and a function that reads a tensor by its name."""
    _check_archive(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds of errors for damaged archives
        errors.pass_on_memory(error)
        raise errors.BadFile(
            f"{path}: expected a complete file of torch.save, got a damaged one ({_reason(error)})"
        ) from None
    try:
        state = saved_names.state_dict(found, own)
    except ValueError as error:
        raise errors.BadFile(f"{path}: {error}") from None
    if state is None:
        what = f"a dict of {_names(found)}" if isinstance(found, dict) else f"a {type(found).__name__}"
        raise errors.BadFile(
            f"{path}: expected a state dict, as torch.save(model.state_dict(), FILE) writes it, got {what}"
        )
    yield {name: tuple(t.shape) for name, t in state.items()}, state.__getitem__


def _check_archive(path: Path) -> None:
    """Raises BadFile unless the file is an uncompressed archive of torch.save whose pickle contains only tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            pickles = [m for m in members if m.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise errors.BadFile(f"{path}: expected an archive of torch.save, got another zip archive")
            size = sum(m.file_size for m in members)
            if any(m.compress_type != zipfile.ZIP_STORED for m in members) or size > path.stat().st_size:
                raise errors.BadFile(
                    f"{path}: expected an uncompressed archive of torch.save, got a compressed one of {size:,} bytes"
                )
            if pickles[0].file_size > MOST_PICKLE:
                raise errors.BadFile(f"{path}: expected a pickle of at most {MOST_PICKLE:,} bytes, got a larger one")
            if all(m.CRC == 0 for m in members if m.file_size):  # torch.serialization.set_crc32_options(False)
                for member in members:
                    member.CRC = None  # type: ignore[assignment]  # zipfile then compares none
            if damaged := archive.testzip():  # torch does not compare the checksums
                raise errors.BadFile(
                    f"{path}: expected a complete file of torch.save, got a damaged one (checksum of {damaged})"
                )
            content = archive.read(pickles[0])
    except errors.BadFile:
        raise
    except Exception as error:  # zipfile raises many kinds of errors for damaged archives
        errors.pass_on_memory(error)
        if path.open("rb").read(1) == b"\x80":
            raise errors.BadFile(
                f"{path}: expected an archive of torch.save, got a plain pickle, which can run any code"
            ) from None
        raise errors.BadFile(
            f"{path}: expected a complete file of torch.save, got a damaged one ({_reason(error)})"
        ) from None
    more = next((asked for asked in _asked_for(path, content) if not _NEEDED.fullmatch(asked)), None)
    if more is not None:
        name = more.replace(" ", ".")
        raise errors.BadFile(
            f"{path}: expected a state dict of tensors only, got a pickle that imports {name}; it was not read (of a"
            " checkpoint that you trust save the state dict alone: torch.save(checkpoint['state_dict'], FILE))"
        )


def _asked_for(path: Path, content: bytes) -> Iterator[str]:
    """Yields "MODULE NAME" of everything that a pickle imports."""
    try:
        for code, argument, _ in pickletools.genops(content):
            if code.name == "GLOBAL":
                yield str(argument)
            elif code.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):  # torch.save does not write these
                yield f"{code.name.lower()} {argument or ''}".strip()
    except Exception as error:  # a damaged pickle
        raise errors.BadFile(f"{path}: expected a state dict, got a damaged pickle ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _check_names(path: Path, own: dict[str, Tensor], there: dict[str, tuple[int, ...]]) -> None:
    shared: dict[tuple[int, tuple[int, ...]], set[str]] = {}
    for name, tensor in own.items():
        shared.setdefault((tensor.data_ptr() if tensor.numel() else id(tensor), tuple(tensor.shape)), set()).add(name)
    missing = [name for names in shared.values() if not names & set(there) for name in sorted(names)[:1]]
    unexpected = [name for name in there if name not in own]
    if missing or unexpected:
        faults = {"without": missing, "with": unexpected}
        got = " and ".join(f"{word} {_names(names)}" for word, names in faults.items() if names)
        raise errors.BadFile(f"{path}: expected the tensors of the model, {_names(own)}, got a file {got}")
    for name, shape in there.items():
        if shape != tuple(own[name].shape):
            raise errors.BadFile(f"{path}: expected shape {tuple(own[name].shape)} for {name}, got {shape}")


def _names(names: object) -> str:
    listed = [str(name)[:80] for name in names]  # type: ignore[attr-defined]
    more = len(listed) - _SHOWN
    return ", ".join(listed[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _check_values(path: Path, own: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != own[name].is_floating_point() or tensor.is_complex():
            raise errors.BadFile(f"{path}: expected {own[name].dtype} for {name}, got {tensor.dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise errors.BadFile(f"{path}: expected finite weights, got others in {name} (has training diverged?)")
