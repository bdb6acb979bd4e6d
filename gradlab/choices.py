"""The names that arguments and options take, each list once. Imports no torch, so that the command line can list them.

Estimators and data sets are defined elsewhere; a test holds their names here to those.
"""

from __future__ import annotations

ESTIMATORS = (
    "arms",
    "decoupled-st-gs",
    "disarm",
    "double-cv",
    "exact",
    "gst",
    "gumbel-rao",
    "gumbel-softmax",
    "leg",
    "mve",
    "rebar",
    "reinforce",
    "reinmax",
    "reinmax-cv",
    "reinmax-rao",
    "rloo",
    "st-gs",
    "ste",
    "ste-argmax",
    "ste-identity",
    "zgr",
)
DATA_SETS = ("cifar10", "fashion-mnist", "mnist", "mnist-sample", "svhn")

ARCHITECTURES = ("binary-autoencoder", "categorical-vae")  # that `gradlab train` has commands for

TARGETS = ("sampled", "model")  # laws whose expected loss is differentiated: softmax(l/tf), softmax(l)
BOTH = "both"  # of the targets
WRT = ("logits", "encoder")
KL_TERMS = ("none", "model", "sampled")  # of a training loss
TRACKED = ("bias", "gap")  # what is measured along a training
OPTIMIZERS = {"radam": "RAdam", "adam": "Adam"}  # classes of torch.optim
PRESETS = {"small": {"width": 16, "depth": 2}, "large": {"width": 128, "depth": 4}}  # of the binary autoencoder
