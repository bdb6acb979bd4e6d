"""The recipes of docs/training.md: each file as the page has it, run with the least of the package that it is for."""

import importlib
import sys
import types

import pytest
import torch

import gradlab

from . import loops, pages
from .test_monitor import monitored

FILES = {one.file: one.source for one in pages.shown((pages.ROOT / "docs" / "training.md").read_text()) if one.file}


class Writer:
    """Of tensorboard's SummaryWriter what a recipe uses."""

    def __init__(self, folder):
        self.folder, self.written = folder, []

    def add_scalar(self, name, value, step):
        self.written.append((name, value, step))


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Imports a file of the page, with stand-ins for packages that it imports."""
    monkeypatch.syspath_prepend(tmp_path)
    stand_ins = {
        "torch.utils.tensorboard": {"SummaryWriter": Writer},
        "lightning": {},
        "lightning.pytorch": {"Callback": object},
    }
    for name, content in stand_ins.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)

    def load(name):
        (tmp_path / name).write_text(FILES[name])
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
        return importlib.import_module(name.removesuffix(".py"))

    return load


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.rand(8, loops.PIXELS)


def test_all_recipes_are_tested():
    expected = {"to_tensorboard.py", "to_csv.py", "lightning_fidelity.py", "accelerate_fidelity.py"}
    assert set(FILES) == expected


def test_tensorboard(recipe, x):
    board = recipe("to_tensorboard.py").Board(monitored(loops.model_of("plain"), every=2))
    for step in range(3):
        board.log(x, step)
    written = board.writer.written
    assert {step for _, _, step in written} == {0, 2}
    assert ("fidelity/tb", 0.8, 2) in written
    assert all(type(value) is float for _, value, _ in written)


def test_csv(recipe, x, tmp_path):
    monitor = monitored(loops.model_of("plain"), every=1, out=tmp_path / "fidelity.h5")
    monitor.step(x), monitor.step(x)
    for results in (monitor.results, gradlab.open_results(tmp_path / "fidelity.h5")):
        recipe("to_csv.py").to_csv(results, tmp_path / "fidelity.csv")
        head, *rows = (tmp_path / "fidelity.csv").read_text().splitlines()
        assert head.startswith("step,")
        assert {"tf", "tb", "relative_bias_debiased", "cosine_debiased_low"} <= set(head.split(","))
        assert [row.split(",")[0] for row in rows] == ["0", "1"]


def test_lightning(recipe, x):
    """The hooks in the order in which a trainer calls them, gradients accumulated over two batches."""

    class Logger:
        def __init__(self):
            self.logged = []

        def log_metrics(self, metrics, step):
            self.logged.append((step, metrics))

    module = loops.model_of("plain")
    trainer = types.SimpleNamespace(global_step=0, logger=Logger())
    options = {"tf": 1.2, "tb": 0.8, "every": 2, "budget": 1, "draws": 16}
    callback = recipe("lightning_fidelity.py").Fidelity(loops.LATENTS, loops.CATEGORIES, **options)
    callback.on_train_start(trainer, module)
    for batch in range(8):
        trainer.global_step += batch % 2
        callback.on_train_batch_end(trainer, module, None, (x, None), batch)
    assert [step for step, _ in trainer.logger.logged] == [0, 2, 4]
    assert trainer.logger.logged[1][1]["fidelity/tb"] == 0.8
    trainer.logger = None
    callback.on_train_batch_end(trainer, module, None, x, 8)


def test_accelerate(recipe, x):
    """Modules as Accelerate prepares them for bfloat16: another `forward` in each, that enters autocast."""
    logged = []
    accelerator = types.SimpleNamespace(log=lambda metrics, step: logged.append((step, metrics)))
    plain = loops.model_of("plain")
    expected = monitored(plain).step(x)
    for part in (plain.encoder, plain.decoder):
        part._original_forward = part.forward
        part.forward = types.MethodType(torch.autocast("cpu", torch.bfloat16)(part.forward.__func__), part)
    assert plain.encoder(x).dtype == torch.bfloat16
    files = recipe("accelerate_fidelity.py")
    options = {"tf": 1.2, "tb": 0.8, "every": 2, "budget": 1, "examples": 4, "draws": 16}
    monitor = files.monitored(accelerator, plain.encoder, plain.decoder, loops.LATENTS, loops.CATEGORIES, **options)
    for step in range(3):
        files.log(accelerator, monitor, x, step)
    assert [step for step, _ in logged] == [0, 2]
    assert logged[0][1]["fidelity/relative_bias"] == pytest.approx(expected["relative_bias"], rel=1e-5)
