"""A mixture of experts with a hard gate: one expert answers each example, and the gate learns through the draw.

    python -m examples.experts --folder results
    gradlab bias --model examples.experts:program --observations results/experts.npy --tb 0.5,1,2

The gate has terms of its own in the loss: the load of the experts is to be even, and its entropy not to vanish. They
need no estimator; `gradlab.Program` adds their exact part to estimates and reference alike.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

import gradlab

INPUTS, EXPERTS, WIDTH, ENTROPY = 8, 6, 16, 0.05


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(INPUTS, EXPERTS)
        layers = (nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)) for _ in range(EXPERTS))
        self.experts = nn.ModuleList(layers)

    def loss(self, x, sample):
        """Loss of each example of x (example, inputs + 1), the wanted answer in the last column."""
        inputs, wanted = x[:, :-1], x[:, -1]
        logits = self.gate(inputs)
        chosen = sample(logits[:, None])[:, 0]  # one latent: (example, 1, expert)
        answers = torch.cat([expert(inputs) for expert in self.experts], 1)
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
        return ((chosen * answers).sum(-1) - wanted).square() - ENTROPY * entropy


def program(model: Experts | None = None) -> gradlab.Program:
    torch.manual_seed(0)
    model = model or Experts()
    return gradlab.Program(model.loss, {"gate": model.gate, "experts": model.experts})


def data(count: int, seed: int) -> torch.Tensor:
    """Inputs of several regions, each with a linear map of its own: (example, inputs + 1)."""
    regions = torch.Generator().manual_seed(0)
    centres, maps = (torch.randn(EXPERTS, INPUTS, generator=regions) for _ in range(2))
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(EXPERTS, (count,), generator=generator)
    inputs = 2 * centres[which] + torch.randn(count, INPUTS, generator=generator)
    wanted = torch.tanh((inputs * maps[which]).sum(1, keepdim=True))
    return torch.cat([inputs, wanted], 1)


def train(steps: int, seed: int = 0) -> Experts:
    torch.manual_seed(seed)
    model, x = Experts(), data(2000, seed)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        some = x[torch.randint(len(x), (64,))]
        loss = model.loss(some, gradlab.decoupled_st_gumbel_softmax).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}")
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, measure, and write observations.")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--draws", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=Path("results"))
    given = parser.parse_args()
    trained, x = train(given.steps), data(50, seed=1)
    names = ["st-gs", "ste", "reinmax", "gumbel-softmax", "rloo"]
    ds = gradlab.bias(program(trained), x, tb=[0.5, 1.0, 2.0], estimator=names, draws=given.draws)
    gate = ds[["relative_bias_debiased", "relative_std"]].sel(parameter="gate.weight").squeeze("tf")
    print(gate.drop_vars(["tf", "parameter", "entries"]).to_dataframe().round(3))
    given.folder.mkdir(parents=True, exist_ok=True)
    np.save(given.folder / "experts.npy", x.numpy())


if __name__ == "__main__":
    main()
