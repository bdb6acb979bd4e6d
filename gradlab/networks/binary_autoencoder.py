"""The paper's binary autoencoder (appendix A.1): convolutional with residual connections, latent 8 x 8 x 32.

The paper gives neither width nor depth. The shape here is that of VQ-VAE's networks (van den Oord, Vinyals,
Kavukcuoglu 2017): two convolutions of stride 2, residual blocks, and their mirror.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import errors
from ..model import LatentModel

STRIDE = 4  # pixels per side of a cell of the latent grid


def binary_autoencoder(
    width: int = 16,
    depth: int = 2,
    units: int = 32,
    grid: int = 8,
    image_shape: Sequence[int] = (1, 28, 28),
) -> LatentModel:
    """A binary autoencoder for images `(example, channel, height, width)` with squared error, averaged over pixels.

    Latents have the shape `(units, grid, grid)`. The network has `width` channels at half the resolution, and twice as
    many channels and `depth` residual blocks at the resolution of the grid. Images smaller than 4*grid pixels per side
    are padded with zeros (28 to 32: two pixels per side), and the output is cropped. Larger images raise ValueError.
    """
    width, units, grid = (
        errors.whole_number(name, n, 1) for name, n in (("width", width), ("units", units), ("grid", grid))
    )
    depth = errors.whole_number("depth", depth, 0)
    shape = tuple(errors.whole_number("image_shape", n, 1) for n in image_shape)
    side = STRIDE * grid
    if len(shape) != 3 or not all(side // 2 < n <= side for n in shape[1:]):
        raise ValueError(
            f"image_shape: expected (channels, height, width) with sides of {side // 2 + 1} to {side} pixels for a"
            f" latent grid of {grid} x {grid}, got {shape}"
        )
    channels, inner = shape[0], 2 * width
    encoder = nn.Sequential(
        _Padded(shape, side),
        nn.Conv2d(channels, width, 4, stride=2, padding=1),
        ChannelsLast(),
        nn.ReLU(),
        nn.Conv2d(width, inner, 4, stride=2, padding=1),
        *(_Residual(inner) for _ in range(depth)),
        nn.ReLU(),
        nn.Conv2d(inner, units, 1),
    )
    decoder = nn.Sequential(
        ChannelsLast(),
        nn.Conv2d(units, inner, 3, padding=1),
        *(_Residual(inner) for _ in range(depth)),
        nn.ReLU(),
        nn.ConvTranspose2d(inner, width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
        _Cropped(shape),
    )
    return LatentModel(encoder, decoder, latents=(units, grid, grid), binary=True, likelihood="gaussian")


class _Residual(nn.Module):
    """h + conv1x1(relu(conv3x3(relu(h))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.spread = nn.Conv2d(channels, channels, 3, padding=1)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.mix(torch.relu(self.spread(torch.relu(h))))


class ChannelsLast(nn.Module):
    """Converts to the memory format in which convolutions with few channels are 1.6 times as fast on two cores."""

    def forward(self, h: Tensor) -> Tensor:
        return h.contiguous(memory_format=torch.channels_last)


class _Padded(nn.Module):
    """Pads images of `shape`, also flat ones, with zeros to a square of `side` pixels."""

    def __init__(self, shape: tuple[int, ...], side: int):
        super().__init__()
        self.shape = shape
        (top, bottom), (left, right) = (_margins(n, side) for n in shape[1:])
        self.margins = (left, right, top, bottom)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x.reshape(len(x), *self.shape), self.margins)


class _Cropped(nn.Module):
    """Crops the decoder's square to the size of the images."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.height, self.width = shape[1:]

    def forward(self, y: Tensor) -> Tensor:
        top, left = _margins(self.height, y.shape[2])[0], _margins(self.width, y.shape[3])[0]
        return y[:, :, top : top + self.height, left : left + self.width]


def _margins(inside: int, outside: int) -> tuple[int, int]:
    before = (outside - inside) // 2
    return before, outside - inside - before
