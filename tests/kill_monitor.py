"""A training with a monitor that measures at every step, to be killed: `python -m tests.kill_monitor FILE STEPS`."""

import sys

import torch

from . import loops
from .test_monitor import monitored


def main(out, steps):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    monitor = monitored(loops.model_of("plain"), every=1, out=out)
    for _ in range(steps):
        monitor.step(torch.rand(4, loops.PIXELS))
        print(monitor.results.step.values[-1], flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
