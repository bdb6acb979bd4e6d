"""Training of built-in models with any estimator: settings, training loop and files."""

from ..settings import BINARY_AUTOENCODER, Settings
from .cost import most_together, step_seconds
from .ensemble import train_together
from .loop import resume_path, train
from .run import HISTORY, OPTIMIZERS, Run
from .step import backward, evaluate
from .tracking import track_path

__all__ = [
    "BINARY_AUTOENCODER",
    "HISTORY",
    "OPTIMIZERS",
    "Run",
    "Settings",
    "backward",
    "evaluate",
    "most_together",
    "resume_path",
    "step_seconds",
    "track_path",
    "train",
    "train_together",
]
