"""How time grows with configurations, images, draws and grid points: `python -m tests.benchmarks costs`.

One factor at a time. Seconds of one warm call of the bundled 8x4 VAE, or of untrained ones where the space grows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

import gradlab
from gradlab import datasets, networks

from . import measure

TEMPERATURES = [round(0.15 * i, 2) for i in range(1, 21)]  # 0.15 .. 3.0


def lines() -> list[str]:
    model = gradlab.bundled("vae-8x4-mnist").to(measure.device)
    images = datasets.load("mnist-sample")

    def x(count: int) -> torch.Tensor:
        return images.first(count).floats().to(measure.device)

    def space(latents: int, categories: int) -> Callable[[], object]:
        of_size = networks.build("categorical-vae", {"latents": latents, "categories": categories}, seed=0)
        of_size.to(measure.device)
        return lambda: gradlab.exact_gradient(of_size, x(100))

    def grid(each: int) -> Callable[[], object]:
        some = TEMPERATURES[20 // each - 1 :: 20 // each]
        return lambda: gradlab.bias(model, x(100), some, some)

    def exact_grid(each: int) -> Callable[[], object]:
        some = TEMPERATURES[20 // each - 1 :: 20 // each]
        return lambda: gradlab.bias(model, x(100), some, some, moments="exact")

    autoencoder = gradlab.bundled("binary-ae-mnist").to(measure.device)

    def by_reference(draws: int) -> Callable[[], object]:
        return lambda: gradlab.bias(autoencoder, x(16), 0.3, [0.3, 1.0, 3.0], draws=draws, reference="disarm")

    def of_encoder(draws: int) -> Callable[[], object]:
        return lambda: gradlab.bias(model, x(100), 1.6, 1.3, draws=draws, wrt="encoder")

    rows: list[tuple[str, str, dict[int, Callable[[], object]]]] = [
        (
            "exact gradient, 100 images",
            "configurations",
            {8**4: space(4, 8), 8**5: space(5, 8), 8**6: space(6, 8), 4**10: space(10, 4)},
        ),
        (
            "exact gradient, 8x4",
            "images",
            {n: lambda n=n: gradlab.exact_gradient(model, x(n)) for n in (10, 100, 1000)},
        ),
        (
            "one point, 8x4, 100 images",
            "draws",
            {n: lambda n=n: gradlab.bias(model, x(100), 1.6, 1.3, draws=n) for n in (256, 1024, 4096, 16384)},
        ),
        (
            "one point, 8x4, 1,024 draws",
            "images",
            {n: lambda n=n: gradlab.bias(model, x(n), 1.6, 1.3) for n in (10, 100, 1000)},
        ),
        ("grid, 8x4, 100 images, 1,024 draws", "points", {n * n: grid(n) for n in (1, 5, 10, 20)}),
        ("exact moments of a grid, 8x4, 100 images", "points", {n * n: exact_grid(n) for n in (1, 2, 5)}),
        ("reference, 2,048 units, 16 images, 3 tb", "draws", {n: by_reference(n) for n in (64, 256, 1024)}),
        ("wrt the encoder, 8x4, 100 images", "draws", {n: of_encoder(n) for n in (256, 1024)}),
    ]
    grid(1)()
    return [_line(*row) for row in rows]


def _line(name: str, unit: str, calls: dict[int, Callable[[], object]]) -> str:
    times = {size: measure.seconds(call) for size, call in calls.items()}
    return f"{name:42s} {unit:15s} " + "   ".join(f"{size:>9,}: {t:7.3g} s" for size, t in times.items())
