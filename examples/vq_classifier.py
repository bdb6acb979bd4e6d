"""A classifier with a discrete bottleneck, VQ-style: each cell of a 2 x 2 grid holds the index of a code-book vector.

    python -m examples.vq_classifier --folder results
    gradlab bias --model examples.vq_classifier:model --weights results/vq.safetensors --observations results/vq.npy

The encoder gives a vector e for each cell; the logits of its index are -|e - c_k|^2 for the code-book vectors c_k, and
the decoder classifies the vectors that the indices stand for. The loss is the cross-entropy of the label. What a loss
needs besides the codes is for x to carry: here the label is x's last column, which the encoder leaves alone.
"""

import argparse
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

import gradlab

SIDE, GRID, CATEGORIES, CLASSES, WIDTH = 8, 2, 4, 4, 6


class CodeBook(nn.Module):
    def __init__(self):
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(CATEGORIES, WIDTH))


class Encoder(nn.Module):
    def __init__(self, book: CodeBook):
        super().__init__()
        self.book = book
        self.cells = nn.Sequential(nn.Conv2d(1, 16, 4, stride=4), nn.ReLU(), nn.Conv2d(16, WIDTH, 1))

    def forward(self, x):
        image = x[:, :-1].reshape(-1, 1, SIDE, SIDE)  # without the label
        cells = self.cells(image).movedim(1, -1)  # (example, 2, 2, width)
        return -(cells[..., None, :] - self.book.vectors).square().sum(-1)  # (example, 2, 2, category)


class Decoder(nn.Module):
    def __init__(self, book: CodeBook):
        super().__init__()
        self.book = book
        self.classify = nn.Sequential(nn.Flatten(), nn.Linear(GRID**2 * WIDTH, 32), nn.ReLU(), nn.Linear(32, CLASSES))

    def forward(self, codes):  # (n, 2, 2, category), one-hot or relaxed
        return self.classify(codes @ self.book.vectors)


def cross_entropy(parameters, x):
    return nn.functional.cross_entropy(parameters, x[:, -1].long(), reduction="none")


def model() -> gradlab.LatentModel:
    """Untrained: `gradlab ... --model examples.vq_classifier:model` fills in the weights."""
    book = CodeBook()
    return gradlab.LatentModel(
        Encoder(book), Decoder(book), latents=(GRID, GRID), categories=CATEGORIES, likelihood=cross_entropy
    )


def data(count: int, seed: int) -> torch.Tensor:
    """Noisy stripes, rows or columns, of two phases: (example, pixels + 1), the class in the last column."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(CLASSES, (count,), generator=generator)
    phase, upright = label % 2, label // 2
    stripes = ((torch.arange(SIDE) // 2 + phase[:, None]) % 2).float()
    rows = stripes[:, :, None].expand(-1, SIDE, SIDE)
    image = torch.where(upright[:, None, None] == 1, rows, rows.mT)
    image = image + 0.7 * torch.randn(count, SIDE, SIDE, generator=generator)
    return torch.cat([image.flatten(1), label[:, None].float()], 1)


def train(steps: int, seed: int = 0) -> gradlab.LatentModel:
    torch.manual_seed(seed)
    trained, x = model(), data(2000, seed)
    optimiser = torch.optim.Adam(trained.parameters(), 5e-3)
    for step in range(steps):
        some = x[torch.randint(len(x), (64,))]
        logits = trained.logits(some)
        z = gradlab.decoupled_st_gumbel_softmax(logits, tf=1.0, tb=1.0)
        loss = trained.losses(z, some).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}")
    return trained.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, measure, and write weights and observations.")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--draws", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=Path("results"))
    given = parser.parse_args()
    trained, x = train(given.steps), data(50, seed=1)
    ds = gradlab.bias(
        trained, x, tf=1.0, tb=[0.5, 1.0, 2.0], estimator=["decoupled-st-gs", "reinmax", "rloo"], draws=given.draws
    )
    print(ds[["relative_bias_debiased", "relative_std"]].squeeze("tf", drop=True).to_dataframe().round(3))
    given.folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_model(trained, str(given.folder / "vq.safetensors"))  # keeps the shared code book once
    np.save(given.folder / "vq.npy", x.numpy())


if __name__ == "__main__":
    main()
