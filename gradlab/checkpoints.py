"""Checkpoints: safetensors files that contain the configuration as JSON. Nothing is unpickled."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from . import errors, files, networks, outputs, schedules
from .model import LatentModel, check_is_model
from .outputs import MOST_HEADER

FORMAT = "gradlab-1"
BUNDLED = "vae-8x4-mnist"  # small enough to enumerate
BUNDLED_LARGE = "binary-ae-mnist"
TRAINING = "training."  # prefix of tensors that are needed only to resume a training
PRECISIONS = {"F64", "F32", "F16", "BF16"}  # names of safetensors; a model has the precision of its file
CHECKSUM = "sha256"  # of the other metadata and of all tensors; files of earlier versions have none
METADATA = ("format", "architecture", "config", "provenance", CHECKSUM)
MOST_CONFIG = 4096  # characters of JSON; more could name thousands of layers


def save(model: LatentModel, path: str | Path) -> None:
    """Writes a built-in model to a safetensors file, with its architecture, configuration and provenance.

    Raises ValueError for a model whose architecture is not built in; save its state_dict yourself.

    Examples
    --------
    >>> gradlab.save(gradlab.bundled("vae-8x4-mnist"), "copy.safetensors")
    """
    check_is_model(model)
    write(path, model, {}, model.provenance)


def load(path: str | Path) -> LatentModel:
    """The model in a file that `save` or a training wrote. Its attribute `provenance` describes the training.

    Raises BadFile (a ValueError) for a file that is not such a checkpoint, and FileNotFoundError if there is no file.

    Examples
    --------
    >>> model = gradlab.load("vae.safetensors")
    >>> model.latents, model.categories, model.provenance["settings"]["epochs"]
    (4, 8, 160)
    """
    return read(path)[0]


def bundled(name: str | None = None) -> LatentModel | list[str]:
    """A model that is shipped with the package, or the list of their names if no name is given.

    Raises ValueError for an unknown name, with the near matches.

    Examples
    --------
    >>> gradlab.bundled()
    ['binary-ae-mnist', 'vae-8x4-mnist']
    >>> gradlab.bundled("vae-8x4-mnist").latents
    4
    """
    folder = importlib.resources.files("gradlab.data")
    files_there = (f.name for f in folder.iterdir())
    names = sorted(n.removesuffix(".safetensors") for n in files_there if n.endswith(".safetensors"))
    if name is None:
        return names
    with importlib.resources.as_file(folder / f"{errors.choice('name', name, names)}.safetensors") as path:
        return load(path)


def load_described(path: str | Path | None, bundled: str = BUNDLED) -> tuple[LatentModel, dict[str, Any]]:
    """The model of a file (None: the bundled one), and attributes that describe it in results."""
    if path is not None:
        model, name, digest = load(path), str(path), files.sha256(path)
    else:
        folder = importlib.resources.files("gradlab.data")
        with importlib.resources.as_file(folder / f"{bundled}.safetensors") as there:
            model, name, digest = load(there), f"{bundled} (bundled)", files.sha256(there)
    return model, {"checkpoint": name, "checkpoint_sha256": digest} | training_described(model.provenance)


def training_described(provenance: dict[str, Any]) -> dict[str, Any]:
    """The number of epochs and the settings of a training, if the provenance contains valid ones.

    For a scheduled temperature: its value at the end of the last epoch, and the schedule.
    """
    settings, history = (of if isinstance(of, dict) else {} for of in map(provenance.get, ("settings", "history")))
    known = {f"trained_{name}": settings.get(name) for name in ("tf", "tb", "seed")}
    losses = history.get("validation_loss")
    known["trained_epochs"] = len(losses) if isinstance(losses, list) else None
    planned: dict[str, Any] = {}
    for name in ("tf", "tb"):
        if isinstance(settings.get(name), str):
            by_epoch = history.get(name)
            known[f"trained_{name}"] = by_epoch[-1] if isinstance(by_epoch, list) and by_epoch else None
            with contextlib.suppress(ValueError):
                planned[f"trained_{name}_schedule"] = str(schedules.parse(settings[name]))
    return {k: v for k, v in known.items() if _is_number(v)} | planned


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def write(path: str | Path, model: LatentModel, training: dict[str, Tensor], provenance: dict[str, Any]) -> None:
    if model.architecture is None:
        raise ValueError(
            "model: expected a built-in architecture, got another one, whose configuration is unknown;"
            " save its state_dict with safetensors.torch.save_file instead"
        )
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    tensors |= {TRAINING + name: tensor.detach().contiguous() for name, tensor in training.items()}
    try:
        about = {
            "format": FORMAT,
            "architecture": model.architecture,
            "config": json.dumps(model.config),
            "provenance": json.dumps(provenance),
        }
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"model: expected plain JSON as config and provenance, got other values ({error})") from None
    about[CHECKSUM] = digest(about, tensors)
    content = safetensors.torch.save(tensors, metadata=about)  # save_file leaves a temporary file if it is killed
    outputs.check(path, outputs.CHECKPOINT)
    with files.written_aside(path) as aside:
        aside.write_bytes(content)


def read(path: str | Path) -> tuple[LatentModel, dict[str, Tensor], dict[str, Any]]:
    """The model, the tensors of its training, and its provenance."""
    path = errors.present(path, "checkpoint file")
    check_header_size(path)
    try:
        with files.named_in_utf8(path) as name, safe_open(name, framework="pt") as file:
            about = file.metadata() or {}
            model = _empty_model(path, about)
            provenance = _json_object(path, {"provenance": "{}"} | about, "provenance")
            names = list(file.keys())
            _check_tensors(path, model, {name: file.get_slice(name) for name in names})
            # copies: a file that is cut short later ends a process that still reads it
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except SafetensorError as error:
        errors.pass_on_memory(error)
        raise errors.BadFile(f"{path}: expected a complete safetensors file, got a damaged one ({error})") from None
    check_digest(path, about, tensors)
    model.load_state_dict({name: tensors[name] for name in model.state_dict()}, assign=True)
    training = {n.removeprefix(TRAINING): tensor for n, tensor in tensors.items() if n.startswith(TRAINING)}
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise errors.BadFile(
                f"{path}: expected finite weights, got others in tensor {name} (has training diverged?)"
            )
    model.provenance = provenance
    return model.requires_grad_(), training, provenance


def digest(about: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """The checksum of the metadata of a checkpoint, apart from the checksum itself, and of its tensors."""
    found = hashlib.sha256(json.dumps({k: about[k] for k in sorted(about) if k != CHECKSUM}).encode())
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        found.update(values.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def check_digest(path: Path, about: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Raises BadFile if the file carries a checksum that is not that of its content."""
    strange = [key for key in about if key not in METADATA]
    if strange:  # the name of the checksum may be what is damaged
        raise errors.BadFile(f"{path}: expected the metadata {', '.join(METADATA)}, got {strange[0]!r:.80}, too")
    if CHECKSUM in about and about[CHECKSUM] != digest(about, tensors):
        raise errors.BadFile(f"{path}: expected the content of its checksum, got another: the file is damaged")


def check_header_size(path: Path) -> None:
    """Raises BadFile unless the file contains its complete header. The first 8 bytes are the size of the header."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if not 0 < size <= min(MOST_HEADER, path.stat().st_size - 8):
        raise errors.BadFile(
            f"{path}: expected a complete safetensors file, got one with an announced header of {size:,} bytes"
        )


def _empty_model(path: Path, about: dict[str, str]) -> LatentModel:
    """The model on the meta device: it has shapes and uses no memory."""
    if about.get("format") != FORMAT:
        raise errors.BadFile(
            f"{path}: expected a gradlab checkpoint of format {FORMAT!r}, got format {about.get('format')!r}"
        )
    if len(about.get("config", "")) > MOST_CONFIG:
        raise errors.BadFile(
            f"{path}: expected a configuration of at most {MOST_CONFIG:,} characters, got a longer one"
        )
    config = _json_object(path, about, "config")
    try:
        with torch.device("meta"):
            return networks.build(about.get("architecture", "none"), config)
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0][:300]
        raise errors.BadFile(f"{path}: expected the configuration of a model, got an invalid one ({reason})") from None


def _json_object(path: Path, about: dict[str, str], key: str) -> dict[str, Any]:
    try:
        value = json.loads(about.get(key, ""))
    except (ValueError, RecursionError) as error:
        raise errors.BadFile(f"{path}: expected JSON as {key}, got other text ({error})") from None
    if not isinstance(value, dict):
        raise errors.BadFile(f"{path}: expected a JSON object as {key}, got {type(value).__name__}")
    return value


def _check_tensors(path: Path, model: LatentModel, there: dict[str, Any]) -> None:
    """Raises BadFile unless the tensors of the file are those of the model, in one floating-point precision."""
    expected = model.state_dict()
    extra = [name for name in there if name not in expected and not name.startswith(TRAINING)]
    if extra:
        raise errors.BadFile(f"{path}: expected the tensors of its configuration, got {extra[0]} too")
    precisions = set()
    for name, tensor in expected.items():
        shape = tuple(there[name].get_shape()) if name in there else None
        if shape != tuple(tensor.shape):
            raise errors.BadFile(f"{path}: expected shape {tuple(tensor.shape)} for tensor {name}, got {shape}")
        if tensor.is_floating_point():
            precisions.add(there[name].get_dtype())
    if len(precisions) > 1 or not precisions <= PRECISIONS:
        raise errors.BadFile(
            f"{path}: expected tensors of one of the types {', '.join(sorted(PRECISIONS))},"
            f" got {' and '.join(sorted(precisions))}"
        )
