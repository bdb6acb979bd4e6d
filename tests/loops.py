"""Small training loops of every usual kind, to run with and without a monitor."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import gradlab

STEPS, BATCH, LATENTS, CATEGORIES, PIXELS = 9, 8, 2, 3, 10
Step = Callable[[Tensor, int], Any]


class Checkpointed(nn.Module):
    """A decoder that recomputes its hidden layer in the backward pass."""

    def __init__(self, reentrant: bool):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(LATENTS * CATEGORIES, 12), nn.Tanh())
        self.last = nn.Linear(12, PIXELS)
        self.reentrant = reentrant

    def forward(self, z: Tensor) -> Tensor:
        return self.last(checkpoint(self.first, z.flatten(1), use_reentrant=self.reentrant))


class OwnAutocast(nn.Module):
    """A module that enters autocast itself, as Accelerate makes them."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(x)


class Counting(nn.Module):
    """State that is no buffer, changed by every call: a number, and a tensor in place."""

    def __init__(self):
        super().__init__()
        self.calls, self.seen, self.largest = 0, [], torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(len(x))
        torch.maximum(self.largest, x.detach().abs().max(), out=self.largest)
        return x


def encoder(*extra: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(PIXELS, 12), *extra, nn.Tanh(), nn.Linear(12, LATENTS * CATEGORIES))


def decoder(*extra: nn.Module) -> nn.Sequential:
    layers = [nn.Flatten(), nn.Linear(LATENTS * CATEGORIES, 12), *extra, nn.Tanh(), nn.Linear(12, PIXELS)]
    return nn.Sequential(*layers)


def _tied() -> tuple[nn.Module, nn.Module]:
    one, other = encoder(nn.Linear(12, 12)), decoder(nn.Linear(12, 12))
    other[2].weight = one[1].weight
    return one, other


def _parametrized() -> tuple[nn.Module, nn.Module]:
    one, other = encoder(), decoder()
    parametrizations.spectral_norm(one[0])
    parametrizations.weight_norm(other[1])
    return one, other


def _old_hooks() -> tuple[nn.Module, nn.Module]:
    one, other = encoder(), decoder()
    nn.utils.spectral_norm(one[0])
    prune.random_unstructured(other[1], "weight", 0.3)
    return one, other


MODELS: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "plain": lambda: (encoder(), decoder()),
    "batch norm and dropout": lambda: (encoder(nn.BatchNorm1d(12), nn.Dropout(0.2)), decoder(nn.BatchNorm1d(12))),
    "tied weights": _tied,
    "parametrizations": _parametrized,
    "hooks of torch": _old_hooks,
    "checkpoints": lambda: (encoder(), Checkpointed(False)),
    "reentrant checkpoints": lambda: (encoder(), Checkpointed(True)),
    "autocast inside": lambda: (OwnAutocast(encoder()), decoder()),
    "state of its own": lambda: (encoder(Counting()), decoder(Counting())),
}


def loss_of(model: gradlab.LatentModel, x: Tensor) -> Tensor:
    """One step's loss: Bernoulli nats at sampled codes, drawn from the global random state."""
    logits = model.encoder(x).float().reshape(len(x), LATENTS, CATEGORIES)
    z = gradlab.decoupled_st_gumbel_softmax(logits, tf=1.2, tb=0.8)
    out = model.decoder(z).float()
    return nn.functional.binary_cross_entropy_with_logits(out, x, reduction="none").sum(1).mean()


def model_of(name: str) -> gradlab.LatentModel:
    torch.manual_seed(3)
    one, other = MODELS[name]()
    return gradlab.LatentModel(one, other, latents=LATENTS, categories=CATEGORIES)


def train(model: gradlab.LatentModel, observe: Step, kind: str = "plain", steps: int = STEPS) -> dict[str, Any]:
    """Trains, calls `observe(x, step)` after each step, and returns all that a monitor could have changed.

    `kind`: "plain", "amp" (bfloat16 autocast and a GradScaler), "accumulation" (observed also between backward and
    step), "compile", "ema".
    """
    torch.manual_seed(7), random.seed(7), np.random.seed(7)  # noqa: NPY002
    run = torch.compile(model.encoder, backend="aot_eager") if kind == "compile" else None
    if run is not None:
        model.encoder = run
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    scaler = torch.amp.GradScaler("cpu", enabled=kind == "amp")
    average = torch.optim.swa_utils.AveragedModel(model) if kind == "ema" else None
    calls = {"forward": 0, "backward": 0, "weight": 0}
    handles = [
        model.decoder.register_forward_hook(lambda *_: calls.__setitem__("forward", calls["forward"] + 1)),
        model.decoder.register_full_backward_hook(lambda *_: calls.__setitem__("backward", calls["backward"] + 1)),
        next(model.parameters()).register_hook(lambda g: calls.__setitem__("weight", calls["weight"] + 1)),
    ]
    losses = []
    for step in range(steps):
        x = torch.rand(BATCH, PIXELS) + 0 * random.random() + 0 * float(np.random.rand())  # noqa: NPY002
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "amp"):
            loss = loss_of(model, x)
        scaler.scale(loss).backward()
        if kind == "accumulation":
            observe(x, step)
            if step % 2 == 0:
                continue
        scaler.step(optimizer)
        scaler.update()
        if average is not None:
            average.update_parameters(model)
        if kind != "accumulation":
            observe(x, step)
        if step % 3:
            optimizer.zero_grad()
        losses.append(loss.detach())
    return {
        "weights": copy.deepcopy(model.state_dict()),
        "average": copy.deepcopy(average.state_dict()) if average is not None else {},
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "losses": losses,
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "scaler": scaler.state_dict(),
        "modes": [module.training for module in model.modules()],
        "requires": [p.requires_grad for p in model.parameters()],
        "calls": calls,
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "live hooks": [handle.id in handle.hooks_dict_ref() for handle in handles],
        "own state": [(m.calls, m.seen, m.largest) for m in model.modules() if isinstance(m, Counting)],
        "random": (torch.random.get_rng_state(), random.getstate(), np.random.get_state()),  # noqa: NPY002
        "torch": settings(),
    }


def settings() -> dict[str, Any]:
    """Settings of the process that a measurement touches."""
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "precision": torch.get_float32_matmul_precision(),
        "anomaly": torch.is_anomaly_enabled(),
    }


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two values are not the same bits."""
    if isinstance(one, Tensor):
        same = isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [where]
    if isinstance(one, np.ndarray):
        return [] if np.array_equal(one, other) else [where]
    if isinstance(one, dict):
        keys = [] if one.keys() == other.keys() else [f"{where} keys"]
        return keys + [
            d for key in one.keys() & other.keys() for d in differences(one[key], other[key], f"{where}/{key}")
        ]
    if isinstance(one, list | tuple):
        size = [] if len(one) == len(other) else [f"{where} length"]
        return size + [
            d for i, (a, b) in enumerate(zip(one, other, strict=False)) for d in differences(a, b, f"{where}/{i}")
        ]
    return [] if one == other else [where]
