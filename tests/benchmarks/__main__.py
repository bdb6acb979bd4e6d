"""Run the benchmarks given by name, or all; print the machine and one table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from . import table

NAMES = (
    "point",
    "untrained",
    "exact",
    "cross",
    "grid",
    "untrained_grid",
    "images",
    "space",
    "moments_exact",
    "gap",
    "step",
    "ensemble",
    "help",
    "costs",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none is given")
    parser.add_argument("--device", default="cpu", help="cpu, or a GPU: cuda, cuda:1, ... (default: cpu)")
    parser.add_argument("--here", choices=["machine", *NAMES], help=argparse.SUPPRESS)
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if given.here:
        print(json.dumps(here(given.here, given.device)))
        return
    print(_process("machine", given.device), flush=True)
    rows, costs = [], []
    for name in given.names or NAMES:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        if name == "costs":
            costs = _process(name, given.device)
            continue
        rows += [console_help()] if name == "help" else [table.Row(**row) for row in _process(name, given.device)]
    print(*(table.lines(rows) if rows else []), *costs, sep="\n")


def here(name: str, device: str):
    """Measure in this process: a line on the machine, or rows as dicts."""
    import os

    import torch

    from gradlab.numerics import plain_arithmetic

    from . import costs, measure, rows, trainings

    torch.manual_seed(0)
    measure.device = torch.device(device)
    if name == "machine":
        both = (torch.float32, torch.float64)
        rates = [f"{measure.matrix_product_rate(t) / 1e9:,.0f} GFLOP/s {t}" for t in both]
        gpu = f"{torch.cuda.get_device_name(device)}, " if measure.device.type == "cuda" else ""
        return (
            f"{gpu}{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__};"
            f" matrix product: {', '.join(rates).replace('torch.', '')}; copy: {measure.copy_rate() / 1e9:,.0f} GB/s"
        )
    if name == "costs":
        return costs.lines()
    with plain_arithmetic():  # the straightforward versions too: convolutions on a GPU are rounded by default
        return [dataclasses.asdict(row) for row in getattr(trainings if hasattr(trainings, name) else rows, name)()]


def console_help() -> table.Row:
    """`gradlab --help` against the bare interpreter, in turn."""
    script = Path(sys.executable).with_name("gradlab")
    times = [[_seconds([script, "--help"]), _seconds([sys.executable, "-c", "pass"])] for _ in range(5)]
    fast, bare = (statistics.median(column) for column in zip(*times, strict=True))
    return table.Row(
        name="gradlab --help",
        gradlab=fast,
        straightforward=bare,
        remarks="median of 5; against `python -c pass`",
    )


def _seconds(command: list) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _process(name: str, device: str):
    command = [sys.executable, "-m", "tests.benchmarks", "--device", device, "--here", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
