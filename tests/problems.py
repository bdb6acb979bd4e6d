"""Named test problems: tiny, asymmetric models with spread-out logits, shared by all tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradlab import LatentModel
from gradlab.setup import Setup, encode


@dataclass(frozen=True)
class Problem:
    name: str
    model: LatentModel
    x: Tensor


def setup_of(model: LatentModel, x: Tensor, logits: Tensor | None = None, **options: int) -> Setup:
    """The Setup of a measurement of the model itself, at its own logits unless others are given."""
    return Setup(model, model, x, encode(model, x) if logits is None else logits, **options)


def heavy_tailed(parameters: Tensor, x: Tensor) -> Tensor:
    """An own likelihood: log(1 + (o - x)^2), weighted by pixel, summed."""
    o, x = parameters.flatten(1), x.flatten(1)
    weight = torch.linspace(0.5, 2.0, o.shape[1], dtype=o.dtype, device=o.device)
    return (weight * torch.log1p((o - x) ** 2)).sum(1)


class ConvDecoder(nn.Module):
    """Codes -> 4x4 picture through a transposed convolution and a convolution."""

    def __init__(self, latents: int, categories: int):
        super().__init__()
        self.spread = nn.Linear(latents * categories, 3 * 2 * 2)
        self.up = nn.ConvTranspose2d(3, 4, 2, stride=2)
        self.out = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = torch.tanh(self.spread(z.flatten(1))).reshape(-1, 3, 2, 2)
        return self.out(torch.tanh(self.up(h)))


def _mlp(inputs: int, outputs: int, width: int = 12) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, outputs)]


def _problem(
    name: str,
    seed: int,
    latents: int,
    categories: int,
    likelihood: str | Callable[[Tensor, Tensor], Tensor],
    decoder: Callable[[], nn.Module] | None = None,
    binary: bool = False,
    examples: int = 5,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        per_latent = 1 if binary else categories
        codes = latents * per_latent
        encoder = nn.Sequential(*_mlp(16, codes))
        plain = nn.Sequential(*_mlp(codes, 16), nn.Unflatten(1, (1, 4, 4)))
        model = LatentModel(
            encoder,
            decoder() if decoder else plain,
            latents=latents,
            categories=categories,
            likelihood=likelihood,
            binary=binary,
        ).to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2.5)  # spread-out logits, a decoder far from linear
        x = torch.rand(examples, 1, 4, 4, dtype=dtype)
    return Problem(name, model, x)


def make(name: str, dtype: torch.dtype = torch.float64) -> Problem:
    """A problem by name: CATEGORIESxLATENTS-likelihood-decoder."""
    recipes: dict[str, Callable[[], Problem]] = {
        "3x5-bernoulli-mlp": lambda: _problem(name, 1, 5, 3, "bernoulli", dtype=dtype),
        "3x5-own-mlp": lambda: _problem(name, 2, 5, 3, heavy_tailed, dtype=dtype),
        "2x7-gaussian-conv": lambda: _problem(name, 3, 7, 2, "gaussian", lambda: ConvDecoder(7, 2), dtype=dtype),
        "2x7-bernoulli-conv": lambda: _problem(name, 4, 7, 2, "bernoulli", lambda: ConvDecoder(7, 2), dtype=dtype),
        "3x2-bernoulli-mlp": lambda: _problem(name, 9, 2, 3, "bernoulli", examples=2, dtype=dtype),
        "4x3-bernoulli-mlp": lambda: _problem(name, 10, 3, 4, "bernoulli", examples=3, dtype=dtype),
        "binary3-bernoulli-mlp": lambda: _problem(name, 11, 3, 2, "bernoulli", binary=True, examples=2, dtype=dtype),
        "8x4-bernoulli-mlp": lambda: _problem(name, 5, 4, 8, "bernoulli", examples=3, dtype=dtype),
        "8x4-gaussian-mlp": lambda: _problem(name, 6, 4, 8, "gaussian", examples=3, dtype=dtype),
        "4x1-own-mlp": lambda: _problem(name, 7, 1, 4, heavy_tailed, dtype=dtype),
        "binary6-bernoulli-mlp": lambda: _problem(name, 8, 6, 2, "bernoulli", binary=True, dtype=dtype),
    }
    return recipes[name]()


EXACT = [
    "3x5-bernoulli-mlp",
    "3x5-own-mlp",
    "2x7-gaussian-conv",
    "2x7-bernoulli-conv",
    "8x4-bernoulli-mlp",
    "8x4-gaussian-mlp",
    "4x1-own-mlp",
    "binary6-bernoulli-mlp",
]
