"""A mixture of 8 experts whose gate takes two: k-hot codes, and what the usual gradient of such a gate leaves out.

    python -m examples.top_k_gate --folder results
    gradlab bias --model examples.top_k_gate:program --observations results/top_k_gate.npy --estimator st-gs

The gate takes the two largest of logits + noise. The answers of the chosen experts are weighted with softmax(logits),
renormalised over the two, as in Mixtral. Code of that kind takes the choice as a constant, so that the gate learns
through these weights alone: `WeightsOnly` here, whose gradient at the choice is 0. The other estimators also let the
gate learn which experts to choose.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import gradlab

INPUTS, EXPERTS, CHOSEN, WIDTH = 8, 8, 2, 16
SHOWN = ["relative_bias_debiased", "relative_bias_debiased_low", "relative_bias_debiased_high", "relative_std"]
NAMES = ["ste", "st-gs", "ste-identity", "rloo"]


@dataclass(frozen=True, kw_only=True)
class WeightsOnly(gradlab.estimators.Estimator):
    """No gradient through the choice."""

    name, kinds, uses = "weights-only", ("k-hot",), ("derivative",)

    def estimate(self, kind, logits, noise, points, loss, derivative):
        return torch.zeros_like(derivative[0])


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(INPUTS, EXPERTS)
        layers = (nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)) for _ in range(EXPERTS))
        self.experts = nn.ModuleList(layers)

    def loss(self, x, sample):
        """Loss of each example of x (example, inputs + 1), the wanted answer in the last column."""
        inputs, wanted = x[:, :-1], x[:, -1]
        logits = self.gate(inputs)
        chosen = sample(logits[:, None], top_k=CHOSEN)[:, 0]  # one latent: (example, 1, expert), two of them 1
        weights = chosen * logits.softmax(-1)
        answers = torch.cat([expert(inputs) for expert in self.experts], 1)
        return ((weights * answers).sum(-1) / weights.sum(-1) - wanted).square()


def program(model: Mixture | None = None) -> gradlab.Program:
    torch.manual_seed(0)
    model = model or Mixture()
    return gradlab.Program(model.loss, {"gate": model.gate, "experts": model.experts})


def data(count: int, seed: int) -> torch.Tensor:
    """Inputs of several regions, each with a map of its own: (example, inputs + 1)."""
    regions = torch.Generator().manual_seed(0)
    centres, maps = (torch.randn(EXPERTS, INPUTS, generator=regions) for _ in range(2))
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(EXPERTS, (count,), generator=generator)
    inputs = 2 * centres[which] + torch.randn(count, INPUTS, generator=generator)
    return torch.cat([inputs, torch.tanh((inputs * maps[which]).sum(1, keepdim=True))], 1)


def train(steps: int, estimator="st-gs", seed: int = 0) -> Mixture:
    torch.manual_seed(seed)
    model, x = Mixture(), data(2000, seed)
    trained = gradlab.Program(model.loss, model)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        some = x[torch.randint(len(x), (64,))]
        loss = trained.surrogate_loss(estimator, some).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}")
    return model.eval()


def measure(model: Mixture, x: torch.Tensor, draws: int):
    """Bias and spread of the gate's gradient, against all 28 pairs of experts."""
    ds = gradlab.bias(program(model), x, estimator=[WeightsOnly(), *NAMES], draws=draws)
    return ds.sel(parameter="gate.weight").squeeze(["tf", "tb"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, measure, and write observations.")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--draws", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=Path("results"))
    given = parser.parse_args()
    x = data(30, seed=1)
    for name, model in {"untrained": train(0), "trained": train(given.steps)}.items():
        print(name)
        gate = measure(model, x, given.draws)[SHOWN]
        print(gate.drop_vars(["tf", "tb", "parameter", "entries"]).to_dataframe().round(3))
    given.folder.mkdir(parents=True, exist_ok=True)
    np.save(given.folder / "top_k_gate.npy", x.numpy())


if __name__ == "__main__":
    main()
