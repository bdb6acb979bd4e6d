"""A small training that tests share: its settings, its images, a Ctrl-C at a chosen step, and what is the same."""

import signal

import pytest
import torch

from gradlab import training
from gradlab.datasets import Images

CONFIG = {"latents": 2, "categories": 3, "hidden": [8], "image_shape": [1, 4, 4]}
BATCH, STEPS = 10, 7  # 64 images: six batches of 10 and one of 4
EPOCHS = 3


def settings(**other):
    plain = {"config": CONFIG, "batch_size": BATCH, "epochs": EPOCHS, "lr": 0.01, "seed": 5}
    return training.Settings(**(plain | other))


def blocks(count, seed, name="blocks"):
    """4x4 pictures with one bright quadrant each, and a little noise: three codes can tell most of it."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 60, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    for image, quadrant in zip(pixels, torch.randint(0, 4, (count,), generator=generator), strict=True):
        row, column = 2 * (int(quadrant) // 2), 2 * (int(quadrant) % 2)
        image[0, row : row + 2, column : column + 2] += 180
    return Images(pixels, name, "train", f"{seed:064x}")


IMAGES, VALIDATION = blocks(64, 0), blocks(20, 1)


def train(out, **given):
    own = {k: given.pop(k) for k in list(given) if k in training.Settings.__dataclass_fields__}
    return training.train(settings(**own), IMAGES, VALIDATION, out, **given)


def assert_same(a, b):
    """Weights bit for bit, and the history."""
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name
    assert a.provenance["history"] == b.provenance["history"]
    assert a.provenance["step"] == b.provenance["step"]


def before_step(monkeypatch, step, action):
    """Calls `action` once, when the step of this number (from 1) is about to be made."""
    one_step = training.Run.one_step

    def acted(run, batch):
        if run.step + 1 == step:
            action()
        one_step(run, batch)

    monkeypatch.setattr(training.Run, "one_step", acted)


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


def interrupt(out, monkeypatch, step, **own):
    with monkeypatch.context() as patch:
        before_step(patch, step, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step {step} of .*--resume continues from"):
            train(out, **own)
