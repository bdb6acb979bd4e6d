"""Checkpoints: safetensors with the configuration inside as JSON. Nothing is ever unpickled."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import errors, files, networks
from .model import LatentModel

FORMAT = "gradlab-1"
TRAINING = "training."  # prefix of the tensors that only resuming a training needs
MOST_METADATA = 16 * 2**20


def save(model: LatentModel, path: str | Path) -> None:
    """Write a built-in model to a safetensors file, with its architecture, configuration and provenance.

    Raises ValueError for a model that is not of a built-in architecture (save its state_dict yourself).
    """
    write(path, model, {}, model.provenance)


def load(path: str | Path) -> LatentModel:
    """Read a model that `save` or a training wrote. Its `provenance` says how it was trained.

    Raises BadFile (a ValueError) for a file that is not such a checkpoint, FileNotFoundError for none.
    """
    return read(path)[0]


def bundled(name: str | None = None) -> LatentModel | list[str]:
    """A model shipped with the package; without a name, the list of names."""
    folder = importlib.resources.files("gradlab.data")
    names = sorted(f.name.removesuffix(".safetensors") for f in folder.iterdir() if f.name.endswith(".safetensors"))
    if name is None:
        return names
    with importlib.resources.as_file(folder / f"{errors.choice('name', name, names)}.safetensors") as path:
        return load(path)


def write(path: str | Path, model: LatentModel, training: dict[str, Tensor], provenance: dict[str, Any]) -> None:
    if model.architecture is None:
        raise ValueError(
            "model: not of a built-in architecture, so its configuration is unknown;"
            " save its state_dict with safetensors.torch.save_file instead"
        )
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    tensors |= {TRAINING + name: tensor.detach().contiguous() for name, tensor in training.items()}
    about = {
        "format": FORMAT,
        "architecture": model.architecture,
        "config": json.dumps(model.config),
        "provenance": json.dumps(provenance),
    }
    with files.written_aside(path) as aside:
        save_file(tensors, aside, metadata=about)


def read(path: str | Path) -> tuple[LatentModel, dict[str, Tensor], dict[str, Any]]:
    """The model, the training's tensors and the provenance."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            model = _empty_model(path, about)
            expected = model.state_dict()
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
            for name, tensor in expected.items():
                if shapes.get(name) != tuple(tensor.shape):
                    raise errors.BadFile(
                        f"{path}: tensor {name} has shape {shapes.get(name)}, its configuration needs {tuple(tensor.shape)}"
                    )
            model.load_state_dict({name: file.get_tensor(name) for name in expected}, assign=True)
            training = {n.removeprefix(TRAINING): file.get_tensor(n) for n in shapes if n.startswith(TRAINING)}
            provenance = json.loads(about.get("provenance", "{}"))
    except SafetensorError as error:
        raise errors.BadFile(f"{path}: not a whole safetensors file ({error})") from None
    except json.JSONDecodeError as error:
        raise errors.BadFile(f"{path}: its metadata is not JSON ({error})") from None
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise errors.BadFile(f"{path}: tensor {name} holds values that are not finite (has training diverged?)")
    model.provenance = provenance
    return model.requires_grad_(), training, provenance


def _empty_model(path: Path, about: dict[str, str]) -> LatentModel:
    """The model on the meta device: shapes to compare with the file, no memory."""
    if about.get("format") != FORMAT:
        raise errors.BadFile(f"{path}: no gradlab checkpoint (format {about.get('format')!r}, {FORMAT!r} is known)")
    config = json.loads(about["config"])
    try:
        with torch.device("meta"):
            return networks.build(about["architecture"], config)
    except (ValueError, RuntimeError, KeyError, OverflowError) as error:
        raise errors.BadFile(f"{path}: no model can be built from its configuration ({error})") from None
