"""A recurrent state-space model at the size of a world model: 32 latents of 32 categories at each of two to four steps.

    python -m examples.world_model --steps 2
    gradlab bias --model examples.world_model:program --observations results/world.npy --tb 1 --dtype float32

The code of a step is drawn from a posterior that sees the observation and the state; the state depends on the codes
before it. The loss is the error of the reconstruction and the KL term between the posterior and a learned prior. So
latents depend on latents, and there are 32^64 paths: the gradients are held against leave-one-out over whole paths.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

import gradlab

LATENTS, CATEGORIES, WIDTH, FEATURES, KL = 32, 32, 128, 64, 0.1


class WorldModel(nn.Module):
    def __init__(self, latents: int = LATENTS, categories: int = CATEGORIES, width: int = WIDTH):
        super().__init__()
        self.shape, self.width, size = (latents, categories), width, latents * categories
        self.posterior = nn.Linear(width + FEATURES, size)
        self.prior = nn.Linear(width, size)
        self.cell = nn.GRUCell(size, width)
        self.decoder = nn.Sequential(nn.Linear(width + size, width), nn.ReLU(), nn.Linear(width, FEATURES))

    def loss(self, x, sample):
        """Loss of each sequence x (example, step, feature)."""
        h, total = torch.zeros(len(x), self.width), 0
        for t in range(x.shape[1]):
            logits = self.posterior(torch.cat([h, x[:, t]], 1)).unflatten(1, self.shape)
            z = sample(logits).flatten(1)
            log_q, log_p = logits.log_softmax(-1), self.prior(h).unflatten(1, self.shape).log_softmax(-1)
            kl = (log_q.exp() * (log_q - log_p)).sum((1, 2))
            off = self.decoder(torch.cat([h, z], 1)) - x[:, t]
            total = total + off.square().sum(1) + KL * kl
            h = self.cell(z, h)
        return total


def program(model: WorldModel | None = None) -> gradlab.Program:
    """Gradients with respect to the posterior, whose codes are drawn."""
    torch.manual_seed(0)
    model = model or WorldModel()
    return gradlab.Program(model.loss, {"posterior": model.posterior})


def data(count: int, steps: int, seed: int) -> torch.Tensor:
    """Sequences (example, step, feature) of a point that moves on a circle, seen through a random projection."""
    generator = torch.Generator().manual_seed(seed)
    projection = torch.randn(2, FEATURES, generator=torch.Generator().manual_seed(0))
    phase, speed = torch.rand(2, count, 1, generator=generator) * torch.tensor([6.28, 0.8])[:, None, None]
    angle = phase + speed * torch.arange(steps)
    noise = 0.1 * torch.randn(count, steps, FEATURES, generator=generator)
    return torch.stack([angle.cos(), angle.sin()], -1) @ projection + noise


def train(updates: int, steps: int, model: WorldModel | None = None) -> WorldModel:
    torch.manual_seed(0)
    model = model or WorldModel()
    x = data(2000, steps, seed=0)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)

    def sample(logits):
        return gradlab.decoupled_st_gumbel_softmax(logits)

    for update in range(updates):
        loss = model.loss(x[torch.randint(len(x), (64,))], sample).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if update % 100 == 0 or update == updates - 1:
            print(f"update {update}: loss {loss.item():.2f}")
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, and measure three estimators on 16 sequences.")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--draws", type=int, default=1024)
    parser.add_argument("--latents", type=int, default=LATENTS)
    parser.add_argument("--folder", type=Path, default=Path("results"))
    given = parser.parse_args()
    trained = train(given.updates, given.steps, WorldModel(latents=given.latents))
    x = data(16, given.steps, seed=1)
    ds = gradlab.bias(
        program(trained),
        x,
        tb=1.0,
        estimator=["st-gs", "ste", "reinmax"],
        draws=given.draws,
        compute=gradlab.Compute(dtype=torch.float32),
    )
    print(f"{ds.attrs['paths']} paths, {ds.attrs['draws']:,} draws, against {ds.attrs['reference']}")
    found = ds.sel(parameter="all").squeeze(drop=True)
    for name in ds.estimator.values:
        value, low, high = (found[f"relative_bias_debiased{end}"].sel(estimator=name) for end in ("", "_low", "_high"))
        print(f"{name:8} relative bias {value:.2f} [{low:.2f}, {high:.2f}]")
    given.folder.mkdir(parents=True, exist_ok=True)
    gradlab.save_results(ds, given.folder / "world.h5")
    np.save(given.folder / "world.npy", x.numpy())


if __name__ == "__main__":
    main()
