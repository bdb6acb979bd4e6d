"""A sequence model with one categorical latent per step: GRU encoder, GRU decoder over the codes.

    python -m examples.sequence_model --folder results
    gradlab bias --model examples.sequence_model:model --weights results/sequence.pt --observations results/sequence.npy

x (example, step, feature) are noisy readings of a system that switches between regimes; the latent of a step is its
regime. The decoder's state runs over the steps of a sequence, never over the examples.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

import gradlab

STEPS, REGIMES, FEATURES, WIDTH = 6, 3, 2, 16


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(FEATURES, WIDTH, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * WIDTH, REGIMES)

    def forward(self, x):
        return self.out(self.gru(x)[0])  # (example, step, category)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(REGIMES, WIDTH, batch_first=True)
        self.out = nn.Linear(WIDTH, FEATURES)

    def forward(self, codes):  # (n, step, category)
        return self.out(self.gru(codes)[0])


def model() -> gradlab.LatentModel:
    """Untrained: `gradlab ... --model examples.sequence_model:model` fills in the weights."""
    return gradlab.LatentModel(Encoder(), Decoder(), latents=(STEPS,), categories=REGIMES, likelihood="gaussian")


def data(count: int, seed: int) -> torch.Tensor:
    """Sequences whose regime stays with probability 0.7, and pulls the reading towards its own level."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])
    regime = torch.randint(REGIMES, (count,), generator=generator)
    reading, readings = torch.zeros(count, FEATURES), []
    for _ in range(STEPS):
        stays = torch.rand(count, generator=generator) < 0.7
        regime = torch.where(stays, regime, torch.randint(REGIMES, (count,), generator=generator))
        reading = 0.4 * reading + 0.6 * levels[regime]
        readings.append(reading + 0.1 * torch.randn(count, FEATURES, generator=generator))
    return torch.stack(readings, 1)


def train(steps: int, seed: int = 0) -> gradlab.LatentModel:
    torch.manual_seed(seed)
    trained, x = model(), data(2000, seed)
    optimiser = torch.optim.Adam(trained.parameters(), 1e-2)
    for step in range(steps):
        some = x[torch.randint(len(x), (64,))]

        def losses(codes, some=some):
            return trained.losses(codes, some.repeat(len(codes) // len(some), 1, 1))

        loss = gradlab.estimators.surrogate_loss("reinmax", trained.logits(some), losses).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}")
    return trained.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, measure, and write weights and observations.")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--draws", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=Path("results"))
    given = parser.parse_args()
    trained, x = train(given.steps), data(50, seed=1)
    ds = gradlab.bias(trained, x, tf=1.0, tb=[0.5, 1.0, 2.0], estimator=["st-gs", "reinmax"], draws=given.draws)
    print(ds[["relative_bias_debiased", "relative_std"]].squeeze("tf", drop=True).to_dataframe().round(3))
    gap = gradlab.gap(trained, x, tf=1.0, tb=[0.5, 1.0, 2.0], draws=32)
    print(gap[["relative_gap_pooled", "cosine"]].squeeze("tf", drop=True).to_dataframe().round(3))
    by_step = np.sqrt(np.square(ds.mean_gradient - ds.exact_gradient).sum(["example", "category"]))
    print("bias by step at tb = 1:", by_step.sel(tb=1.0).squeeze("tf", drop=True).to_pandas().round(4), sep="\n")
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.save(trained.state_dict(), given.folder / "sequence.pt")
    np.save(given.folder / "sequence.npy", x.numpy())


if __name__ == "__main__":
    main()
