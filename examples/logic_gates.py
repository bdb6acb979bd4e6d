"""A differentiable logic network: each neuron chooses one of 16 gates of its two inputs.

    python -m examples.logic_gates

The choice of a neuron is a latent of 16 categories, whose logits are parameters and the same for all x. The decoder
reads x, so the model is conditional: it runs the chosen gates on the bits. Three neurons, and one that reads two of
them, have 16^4 = 65,536 configurations; the exact gradient enumerates them for each x.
"""

import argparse

import torch
from torch import Tensor, nn

import gradlab

GATES, BITS = 16, 4
WIRES = ((0, 1), (1, 2), (2, 3), (4, 5))  # the inputs of each neuron: bits, then the outputs of neurons before it
NEURONS = len(WIRES)


def gates(a: Tensor, b: Tensor) -> Tensor:
    """All 16 gates of two bits, or their relaxations for numbers in [0, 1]: (n, gate)."""
    half = [0 * a, a * b, a - a * b, a, b - a * b, b, a + b - 2 * a * b, a + b - a * b]
    return torch.stack([*half, *(1 - gate for gate in reversed(half))], -1)


class Choices(nn.Module):
    """The logits of the gates of each neuron, the same for all x."""

    def __init__(self):
        super().__init__()
        self.gates = nn.Parameter(torch.randn(NEURONS, GATES))

    def forward(self, x: Tensor) -> Tensor:
        return self.gates.expand(len(x), NEURONS, GATES)


class Network(nn.Module):
    """Runs the gates: codes (n, neuron, gate) and bits (n, bit) -> the logit of the last neuron's output."""

    def forward(self, codes: Tensor, x: Tensor) -> Tensor:
        values = list(x[:, :BITS].unbind(1))
        for neuron, (first, second) in enumerate(WIRES):
            values.append((codes[:, neuron] * gates(values[first], values[second])).sum(-1))
        return 4 * values[-1] - 2


def loss(parameters: Tensor, x: Tensor) -> Tensor:
    """Nats of the label, the last column of x."""
    return nn.functional.binary_cross_entropy_with_logits(parameters, x[:, BITS], reduction="none")


def model() -> gradlab.LatentModel:
    return gradlab.LatentModel(
        Choices(), Network(), latents=NEURONS, categories=GATES, likelihood=loss, conditional=True
    )


def data() -> Tensor:
    """All 16 inputs, and the label (x0 and x1) or (x1 xor x2)."""
    bits = torch.tensor([[i >> k & 1 for k in range(BITS)] for i in range(2**BITS)])
    label = (bits[:, 0] & bits[:, 1]) | (bits[:, 1] ^ bits[:, 2])
    return torch.cat([bits, label[:, None]], 1).float()


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare estimators on the gradient of the gates' logits.")
    parser.add_argument("--draws", type=int, default=256)
    given = parser.parse_args()
    torch.manual_seed(0)
    ds = gradlab.bias(
        model(),
        data(),
        tf=1.0,
        tb=[0.5, 1.0],
        estimator=["st-gs", "ste", "reinmax", "rloo"],
        wrt="encoder",
        draws=given.draws,
    )
    found = ds[["relative_bias_debiased", "relative_std"]].sel(parameter="gates").squeeze("tf", drop=True)
    print(found.to_dataframe().round(3))


if __name__ == "__main__":
    main()
