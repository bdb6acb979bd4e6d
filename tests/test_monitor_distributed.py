"""A monitor under DistributedDataParallel: two processes, of which the first measures and none waits for the other."""

import multiprocessing

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import gradlab

from . import loops
from .test_monitor import monitored

STEPS = 6


def trained(rank, observed):
    """A training of wrapped modules, whose buffers each forward pass synchronises."""
    plain = loops.model_of("batch norm and dropout")
    torch.manual_seed(rank)
    wrapped = [DistributedDataParallel(part) for part in (plain.encoder, plain.decoder)]
    model = gradlab.LatentModel(*wrapped, latents=loops.LATENTS, categories=loops.CATEGORIES)
    monitor = monitored(model, every=2) if observed else None
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    found = []
    for _ in range(STEPS):
        x = torch.rand(loops.BATCH, loops.PIXELS)
        optimizer.zero_grad()
        loops.loss_of(model, x).backward()
        optimizer.step()
        found.append(bool(monitor and monitor.step(x)))
    return found, model.state_dict(), torch.random.get_rng_state()


def process(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save([trained(rank, False), trained(rank, True)], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_rank_0_measures_and_all_end_in_the_same_bits(tmp_path):
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=process, args=(rank, tmp_path)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(100)
        child.kill()
    assert [child.exitcode for child in children] == [0, 0]
    for rank in range(2):
        without, with_it = torch.load(tmp_path / f"{rank}.pt")
        assert loops.differences(without[1:], with_it[1:]) == []
        assert with_it[0] == [rank == 0 and step % 2 == 0 for step in range(STEPS)]
