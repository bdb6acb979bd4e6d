"""What tests of the command line share: a checkpoint that takes no time, the one line of an error, Ctrl-C."""

import os
import signal
import subprocess
import sys

import torch

import gradlab
from gradlab import datasets, networks

from .conftest import Ran

POINT = ["--images", "3", "--draws", "8", "--sweep", "none", "--no-plot", "--out", "bias.h5"]
# a shell's background jobs, and so their children, ignore Ctrl-C
START = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import sys\n"
DRAWN = [part for part in POINT if part != "--no-plot"]
COMMAND = [sys.executable, "-c", "from gradlab.cli import main; import sys; main(sys.argv[1:])"]
RUN = START + "from gradlab.cli import main; main(sys.argv[1:])"


def tiny(path, seed=1, **config):
    """A checkpoint that measures in no time, asymmetric by its random weights."""
    config = {"latents": 2, "categories": 3, "hidden": [4], "image_shape": [1, 28, 28]} | config
    model = networks.build("categorical-vae", config, seed=seed)
    gradlab.save(model, path)
    return model


def refused(ran, code, *fragments):
    """One line on standard error that says all of `fragments`, and nothing else."""
    assert ran.code == code
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith("gradlab: ")
    for fragment in fragments:
        assert fragment in line


def measured(run, *arguments, out="bias.h5"):
    ran = run("bias", *arguments)
    assert ran.code == 0, ran.err
    return gradlab.open_results(out)


def images(folder, count):
    """A data set `own` of 8x8 pictures, in `folder`."""
    for position, name in enumerate(datasets.IDX_FILES.values()):
        generator = torch.Generator().manual_seed(position)
        pixels = torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
        datasets.write_idx(folder / "own" / f"{name}.gz", pixels)


def start(folder, script, *arguments):
    command = [sys.executable, "-c", script, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def interrupted(process):
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    return Ran(process.returncode, out, err)


def ran(folder, *arguments, close="", **environment):
    """A command in a process of its own; `close`: descriptors that its shell closes, "2>&-"."""
    line = f'exec "$@" {close}'
    clean = {name: value for name, value in os.environ.items() if name not in environment}
    return subprocess.run(
        ["bash", "-c", line, "bash", *COMMAND, *map(str, arguments)],
        cwd=folder,
        env=clean | {"OMP_NUM_THREADS": "1"} | {k: v for k, v in environment.items() if v is not None},
        capture_output=True,
        timeout=300,
    )
