"""What a shell is offered to complete a command."""

import os
import subprocess
import sys

import pytest

from gradlab import choices, datasets, estimators, networks


def completions(*words):
    """What bash would be offered for the last of `words`."""
    script = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))"
    script += "; from gradlab.cli import main; main([])"  # which exits
    asked = {
        "_GRADLAB_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["gradlab", *words]),
        "COMP_CWORD": len(words),
    }
    environment = os.environ | {name: str(value) for name, value in asked.items()}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stderr == "False\n"  # torch takes more than a second to import
    return [line.partition(",")[2] or line for line in done.stdout.splitlines()]


def test_the_names_are_those_of_the_registries():
    assert sorted(choices.ESTIMATORS) == sorted(estimators.names())
    assert sorted(choices.DATA_SETS) == sorted(datasets.names())
    assert set(choices.ARCHITECTURES) <= set(networks.ARCHITECTURES)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["bias", "--estimator", "st"], ["st-gs", "ste", "ste-argmax", "ste-identity"]),
        (["train", "vae", "--estimator", "rei"], ["reinforce", "reinmax", "reinmax-cv", "reinmax-rao"]),
        (["check-estimator", "rl"], ["rloo"]),
        (["gap", "--data", "mn"], ["mnist", "mnist-sample"]),
        (["sweep", "vae", "--data", "s"], ["svhn"]),
        (["data", "fetch", "c"], ["cifar10"]),
        (["bias", "--reference", "r"], ["rebar", "reinforce", "reinmax", "reinmax-cv", "reinmax-rao", "rloo"]),
        (["reproduce", "figure4"], ["figure4", "figure4-kl"]),
        (["check-"], ["check-estimator", "check-layer"]),
    ],
)
def test_names_are_completed(words, offered):
    assert completions(*words) == offered
