"""The models of a measurement in parts, which a worker loads where it is."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import checkpoints, errors

Loaded = tuple[Any, dict[str, Any]]  # a model, and attributes that describe it in results


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Parameters
    ----------
    load : returns the model and attributes that describe it in results; picklable. `checkpoint_sha256` among the
        attributes tells whether it returns the same model elsewhere
    about : these attributes
    path : the file of a checkpoint of gradlab, whose content is sent to a cluster; None: the model itself is sent
    code : checksum of the code that makes the model, if it is the user's
    """

    load: Callable[[], Loaded]
    about: dict[str, Any]
    path: str | None = None
    code: str = ""

    @property
    def name(self) -> str:
        return str(self.about["checkpoint"])

    @property
    def sha256(self) -> str:
        return str(self.about["checkpoint_sha256"])

    def loaded(self) -> Loaded:
        """The model that was seen at the beginning. Raises BadFile for another one."""
        model, about = self.load()
        if about["checkpoint_sha256"] != self.sha256:
            cure = "" if self.path else "; save the weights of the model in a file"
            raise errors.BadFile(f"{self.name}: expected the weights of the beginning, got others{cure}")
        return model, about

    def sent(self, model: Any) -> Callable[[], Any]:
        """A function that returns the model on a machine without this one's files."""
        if self.path is not None:
            return functools.partial(_of_content, Path(self.path).read_bytes(), self)
        return functools.partial(_itself, model) if self.code else self._model

    def _model(self) -> Any:
        return self.loaded()[0]


def _of_content(content: bytes, source: Source) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"
        path.write_bytes(content)
        model, about = checkpoints.load_described(path)
    if about["checkpoint_sha256"] != source.sha256:
        raise errors.BadFile(f"{source.name}: expected the file of the beginning, got another one")
    return model


def _itself(model: Any) -> Any:
    return model
