"""Training several cells at once: each has the weights, history and files of the same training alone."""

import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

import gradlab
from gradlab import checkpoints, estimators, networks, training
from gradlab.datasets import Images
from gradlab.fidelity import bias_analysis
from gradlab.training import engines, ensemble, loop, stack, streams, updates

from . import test_binary_autoencoder
from .small_trainings import BATCH, EPOCHS, IMAGES, STEPS, VALIDATION, press_ctrl_c, settings
from .tiny_sweep import Death, dies_at

SIZES = {"width": 2, "depth": 1, "units": 2, "grid": 3, "image_shape": [1, 10, 9]}
PIXELS = test_binary_autoencoder.images(44, (1, 10, 9))
CELLS = [settings(seed=1), settings(seed=2, tf=0.5), settings(seed=1, tb="2:0.3:cosine")]
ROUNDING = 1e-4  # in float32, after some 20 steps, of what they changed: some 1e-5 of the weights


def binary(**other):
    own = {"config": SIZES, "batch_size": 8, "epochs": 4}
    return dataclasses.replace(training.BINARY_AUTOENCODER, **own | other)


class Doubles(Images):
    """Images as float64."""

    def floats(self, which=slice(None)):
        return super().floats(which).double()


def doubles(images):
    return Doubles(images.pixels, images.name, images.split, images.sha256)


@pytest.fixture(autouse=True)
def stacked(monkeypatch):
    """As on a GPU, but that nothing is captured."""
    monkeypatch.setattr(engines, "stacks_pay", lambda device: True)


@pytest.fixture
def precision(request):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def outs(tmp_path):
    return [tmp_path / f"cell{i}.safetensors" for i in range(len(CELLS))]


def data_for(cells):
    images = {"categorical-vae": (IMAGES, VALIDATION), "binary-autoencoder": (PIXELS, PIXELS)}[cells[0].architecture]
    return tuple(map(doubles, images)) if torch.get_default_dtype() == torch.float64 else images


def together(outs, cells=CELLS, **given):
    return training.ensemble.train_together(cells, *data_for(cells), outs, **given)


def alone(folder, cells=CELLS, **given):
    folder.mkdir(exist_ok=True)
    return [
        training.train(own, *data_for(cells), folder / f"alone{i}.safetensors", **given) for i, own in enumerate(cells)
    ]


def difference(model, wanted):
    """The norm of the difference over that of what training changed, of the tensor where it is largest."""
    there, seed = model.state_dict(), wanted.provenance["settings"]["seed"]
    start = networks.build(wanted.architecture, wanted.config, seed).state_dict()
    return max(float((there[n] - t).norm() / (t - start[n].to(t)).norm()) for n, t in wanted.state_dict().items())


def assert_close(models, wanted, rounding=ROUNDING):
    for model, own in zip(models, wanted, strict=True):
        assert difference(model, own) < rounding
        assert set(model.provenance["history"]) == set(training.HISTORY)
        for name, values in own.provenance["history"].items():
            assert model.provenance["history"][name] == pytest.approx(values, rel=max(rounding, 1e-6)), (
                name
            )  # 7 digits are kept
        assert model.provenance["step"] == own.provenance["step"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """CELLS, each trained alone."""
    return alone(tmp_path_factory.mktemp("unbroken"))


# as alone


def mixed(cell, **other):
    """Cells of one estimator each, of seed and temperatures of their own."""
    return [cell(seed=i, tf=1.6 - 0.4 * i, tb=0.7 + i, **{k: v[i] for k, v in other.items()}) for i in range(3)]


ENSEMBLES = {
    "vae": CELLS,
    "vae without KL": [settings(seed=i, kl=False, optimizer="adam", tf=("1:0.3", 2.0)[i]) for i in range(2)],
    "KL of the distribution sampled": [settings(seed=i, kl="sampled", tf=(0.4, "0.5:2")[i]) for i in range(2)],
    "running mean": mixed(
        settings,
        estimator=["reinforce:baseline='running-mean'", "st-gs", "reinforce:baseline='running-mean',decay=0.5"],
    ),
    "several evaluations": mixed(settings, estimator=["rebar", "rloo:n=3", "rebar:eta=0.3"]),
    "samples, no derivative": mixed(settings, estimator=["rloo", "rloo", "rloo:n=2"]),
    "learning rates": [settings(seed=i // 2, lr=0.003 * (1 + i)) for i in range(4)],
    "one cell": CELLS[1:2],
    "binary": [binary(seed=3), binary(seed=4), binary(seed=3, tf=1.0, tb="6:1:exponential")],
    "binary with KL": mixed(binary, estimator=["disarm", "arms", "rloo"], kl=[True] * 3, optimizer=["radam"] * 3),
}


SINGLE = ("vae",)  # the others in single precision are rounding once more
BOTH_PRECISIONS = [
    *((name, torch.float64) for name in ENSEMBLES),
    *(pytest.param(name, torch.float32, marks=() if name in SINGLE else pytest.mark.deep) for name in ENSEMBLES),
]


@pytest.mark.parametrize(("name", "precision"), BOTH_PRECISIONS, indirect=["precision"], ids=str)
def test_cells_are_those_trained_alone(tmp_path, precision, name):
    cells = ENSEMBLES[name]
    wanted = alone(tmp_path / "alone", cells)
    found = together([tmp_path / f"{i}.safetensors" for i in range(len(cells))], cells)
    assert wanted[0].provenance["step"] >= 20
    assert next(found[0].parameters()).dtype == precision
    assert_close(found, wanted, 1e-12 if precision == torch.float64 else ROUNDING)


@pytest.mark.parametrize("other", [{"seed": 6}, {"tf": 1.8}, {"tb": 1.301}, {"estimator": "ste"}, {"kl": False}])
def test_the_comparison_would_find_another_training(tmp_path, unbroken, other):
    (model,) = alone(tmp_path, [dataclasses.replace(CELLS[0], **other)])
    assert difference(model, unbroken[0]) > 3 * ROUNDING


IN_ENSEMBLES = ("arms", "decoupled-st-gs", "disarm", "rebar", "reinforce", "rloo", "st-gs")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.deep) if n in IN_ENSEMBLES else n for n in estimators.names()]
)
def test_every_estimator_trains_as_alone_or_is_refused(tmp_path, name):
    """One evaluation or several, with and without derivatives, weights, noise arrays of its own number; those of
    ENSEMBLES again where deep.

    `exact`, which decodes all configurations at once, is not stacked.
    """
    cell = settings if "categorical" in estimators.find(name).kinds else binary
    cells = [cell(seed=i, tf=0.6 + i, estimator=name, epochs=1) for i in range(2)]
    outs = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    assert_close(together(outs, cells), alone(tmp_path / "alone", cells))


def test_the_states_of_chance_are_untouched(outs):
    before = torch.get_rng_state()
    together(outs, [dataclasses.replace(own, epochs=1) for own in CELLS])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["vae", "several evaluations", "binary"])
def test_on_a_gpu_cells_are_those_trained_alone_there(tmp_path, name):
    cells = ENSEMBLES[name]
    wanted = alone(tmp_path / "alone", cells, device="cuda")
    found = together([tmp_path / f"{i}.safetensors" for i in range(len(cells))], cells, device="cuda")
    assert next(found[0].parameters()).is_cuda
    assert_close(found, wanted, 1e-3)


# files


def test_each_cell_has_its_own_file_and_nothing_else_is_left(outs, unbroken):
    models = together(outs)
    assert sorted(outs[0].parent.iterdir()) == outs
    for out, model, own, wanted in zip(outs, models, CELLS, unbroken, strict=True):
        read = gradlab.load(out)
        assert all(torch.equal(t, model.state_dict()[name]) for name, t in read.state_dict().items())
        about = read.provenance
        assert set(about) == set(wanted.provenance) | {"ensemble"}
        assert about["ensemble"] == 3
        assert about["settings"] == json.loads(json.dumps(dataclasses.asdict(own)))
        for name in ("data", "validation", "step", "gradlab", "torch", "device", "threads"):
            assert about[name] == wanted.provenance[name]
        assert checkpoints.read(out)[1] == {}


def test_models_share_no_memory(outs):
    models = together(outs, [dataclasses.replace(own, epochs=1) for own in CELLS])
    places = [p.untyped_storage().data_ptr() for model in models for p in model.parameters()]
    assert len(set(places)) == len(places)


def test_the_seconds_of_all_cells_are_those_that_passed(outs, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def slow(own, seconds):
        def call(*given):
            now[0] += seconds
            return own(*given)

        return call

    monkeypatch.setattr(stack.Stack, "step", slow(stack.Stack.step, 3))
    monkeypatch.setattr(stack.Stack, "evaluate", slow(stack.Stack.evaluate, 6))
    models = together(outs)
    assert [model.provenance["seconds"] for model in models] == [EPOCHS * (STEPS + 2)] * 3
    assert now[0] == 3 * EPOCHS * (STEPS + 2)


def test_models_of_epochs_are_kept(outs, unbroken):
    together(outs, keep_every=2)
    kept = sorted(p.name for p in outs[0].parent.glob("*-epoch*"))
    assert kept == [f"cell{i}-epoch0002.safetensors" for i in range(3)]
    model = gradlab.load(outs[1].with_name(kept[1]))
    assert model.provenance["history"]["validation_loss"] == pytest.approx(
        unbroken[1].provenance["history"]["validation_loss"][:2], rel=1e-6
    )


def test_bias_is_tracked_cell_by_cell(tmp_path, outs, monkeypatch):
    own = {"track": ("bias",), "track_every": 2, "track_images": 4, "track_draws": 8}
    with_few_figures(monkeypatch)
    alone(tmp_path / "alone", CELLS[1:], **own)
    together(outs[1:], CELLS[1:], **own)
    for i, out in enumerate(outs[1:]):
        ds = gradlab.open_results(training.track_path(out, "bias"))
        wanted = gradlab.open_results(training.track_path(tmp_path / "alone" / f"alone{i}.safetensors", "bias"))
        assert ds.epoch.values.tolist() == [0, 2, 3]
        for name in ("relative_bias", "tf", "tb"):
            assert ds[name].values == pytest.approx(wanted[name].values, rel=1e-4)
        assert ds.attrs["training.ensemble"] == 2


def with_few_figures(patch):
    measure = bias_analysis.bias
    patch.setattr(bias_analysis, "bias", lambda *given, **named: measure(*given, **named)[["relative_bias"]])


# interruption


def before_step(monkeypatch, step, action):
    """Calls `action(stack)` when the cells are about to make the step of this number, from 1."""

    def acted(self, examples, one_step=stack.Stack.step):
        if int(self.t) + 1 == step:
            action(self)
        one_step(self, examples)

    monkeypatch.setattr(stack.Stack, "step", acted)


def interrupt(outs, monkeypatch, step, **given):
    with monkeypatch.context() as patch:
        before_step(patch, step, lambda _: press_ctrl_c())
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step {step} of .*--resume continues all cells"):
            together(outs, **given)


def assert_nothing_left(outs):
    assert not [p for p in outs[0].parent.iterdir() if "resume" in p.name or p.name.endswith(".part")]


@pytest.mark.parametrize(
    "step",
    [4, STEPS, EPOCHS * STEPS, *(pytest.param(step, marks=pytest.mark.deep) for step in (1, STEPS + 1, 2 * STEPS))],
)
def test_an_interrupted_ensemble_ends_in_the_weights_of_an_unbroken_one(unbroken, outs, monkeypatch, step):
    interrupt(outs, monkeypatch, step)
    assert sorted(outs[0].parent.iterdir()) == [training.resume_path(out) for out in outs]
    assert_close(together(outs, resume=True), unbroken)
    assert_nothing_left(outs)


@pytest.mark.parametrize(("time", "step"), [(2, 0), (4, 2 * STEPS)])
def test_an_interrupt_while_measuring_is_heeded_and_loses_nothing(unbroken, outs, monkeypatch, time, step):
    """Of the first epochs' measurements, the second; of the later ones', the first."""
    own = {"track": ("bias",), "track_every": 2, "track_images": 2, "track_draws": 2}
    with_few_figures(monkeypatch)
    measure, measured = bias_analysis.bias, []

    def interrupted(*given, **named):
        measured.append(given)
        if len(measured) == time:
            press_ctrl_c()
        return measure(*given, **named)

    monkeypatch.setattr(bias_analysis, "bias", interrupted)
    with pytest.raises(KeyboardInterrupt, match=f"stopped at step {step} of"):
        together(outs, **own)
    assert len(measured) == time
    assert_close(together(outs, resume=True, **own), unbroken)
    for out in outs:
        assert gradlab.open_results(training.track_path(out, "bias")).epoch.values.tolist() == [0, 2, 3]


@pytest.mark.parametrize("name", ["running mean", pytest.param("binary with KL", marks=pytest.mark.deep)])
def test_a_cell_begun_in_an_ensemble_can_be_gone_on_with_alone(tmp_path, monkeypatch, name):
    cells = ENSEMBLES[name]
    wanted = alone(tmp_path / "alone", cells)
    outs = [tmp_path / f"{i}.safetensors" for i in range(len(cells))]
    interrupt(outs, monkeypatch, 10, cells=cells)
    data = data_for(cells)
    found = [training.train(own, *data, out, resume=True) for own, out in zip(cells, outs, strict=True)]
    assert_close(found, wanted)


@pytest.mark.parametrize("name", [pytest.param("running mean", marks=pytest.mark.deep), "binary with KL"])
def test_cells_begun_alone_can_be_gone_on_with_in_an_ensemble(tmp_path, monkeypatch, name):
    """Each from a step of its own, one not begun: those behind catch up, and are stacked with the others there."""
    catching_up = {
        "running mean": [[0], [10], [14, 14], [15]],
        "binary with KL": [[0], [10], [12, 12], [15], [18, 18, 18]],
    }
    cells = ENSEMBLES[name]
    wanted = alone(tmp_path / "alone", cells)
    outs = [tmp_path / f"{i}.safetensors" for i in range(len(cells))]
    for own, out, step in zip(cells, outs, [10, 15], strict=False):
        with monkeypatch.context() as patch:
            interrupt_alone(patch, step)
            with pytest.raises(KeyboardInterrupt):
                training.train(own, *data_for(cells), out)
    made = []
    before = stack.Stack.__init__
    monkeypatch.setattr(
        stack.Stack, "__init__", lambda self, runs: made.append([run.step for run in runs]) or before(self, runs)
    )
    assert_close(together(outs, cells, resume=True), wanted)
    assert made == catching_up[name]


def interrupt_alone(patch, step):
    def acted(run, batch, one_step=training.Run.one_step):
        if run.step + 1 == step:
            press_ctrl_c()
        one_step(run, batch)

    patch.setattr(engines, "stacks_pay", lambda device: False)
    patch.setattr(training.Run, "one_step", acted)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests import test_training_ensemble as t

which, replace, calls = int(sys.argv[3]), os.replace, []
def killed(source, target):
    calls.append(target)
    replace(source, target)
    if len(calls) == which:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = killed
t.together([Path(sys.argv[2]) / f"cell{i}.safetensors" for i in range(3)])
"""


# files written: a state of each cell for each of three epochs, in the last followed by its model
@pytest.mark.parametrize("which", [5, 8])
def test_an_ensemble_that_dies_after_any_file_goes_on(unbroken, outs, monkeypatch, which):
    with monkeypatch.context() as patch:
        dies_at(patch, os, "replace", which, before=False)
        with pytest.raises(Death):
            together(outs)
    assert_goes_on(unbroken, outs, monkeypatch, which)


@pytest.mark.deep
@pytest.mark.parametrize("which", [1, 2, 3, 5, 6, 7, 8, 9, 11])
def test_an_ensemble_killed_after_any_file_goes_on(unbroken, outs, monkeypatch, which):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = [sys.executable, "-c", KILLED, root, str(outs[0].parent), str(which)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert_goes_on(unbroken, outs, monkeypatch, which)


def assert_goes_on(unbroken, outs, monkeypatch, which):
    """Some cells are an epoch ahead of others then, or finished; no cell has lost more than the epoch under way."""
    made = []
    before_any_step(monkeypatch, lambda self: made.append(len(self.runs)))
    assert_close(together(outs, resume=True), unbroken)
    kept = min(which, 6) + max(0, which - 5) // 2  # states written; in the last epoch every other file is a model
    assert sum(made) == (3 * EPOCHS - kept) * STEPS
    assert_nothing_left(outs)


def before_any_step(monkeypatch, action):
    def acted(self, examples, one_step=stack.Stack.step):
        action(self)
        one_step(self, examples)

    monkeypatch.setattr(stack.Stack, "step", acted)


def test_finished_cells_are_read(outs, monkeypatch):
    before = together(outs)
    before_any_step(monkeypatch, lambda self: pytest.fail("it trained"))
    again = together(outs, resume=True)
    for model, own in zip(again, before, strict=True):
        assert difference(model, own) == 0
        assert model.provenance == own.provenance


def test_a_finished_file_of_another_training_is_not_taken_for_the_cell(outs, unbroken):
    together(outs, [dataclasses.replace(own, tb=3.0) for own in CELLS])
    assert_close(together(outs, resume=True), unbroken)


def test_finished_cells_take_more_epochs_from_the_start(tmp_path, outs):
    """What train does too: a finished training has no state."""
    cells = [dataclasses.replace(own, epochs=1) for own in CELLS]
    together(outs, cells)
    longer = [dataclasses.replace(own, epochs=2) for own in CELLS]
    assert_close(together(outs, longer, resume=True), alone(tmp_path / "alone", longer))


def test_a_second_ctrl_c_interrupts_at_once_and_keeps_the_last_states(unbroken, outs, monkeypatch):
    with monkeypatch.context() as patch:
        before_step(patch, STEPS + 2, lambda _: (press_ctrl_c(), press_ctrl_c()))
        with pytest.raises(KeyboardInterrupt):
            together(outs)
    assert [checkpoints.read(training.resume_path(out))[2]["step"] for out in outs] == [STEPS] * 3
    assert_close(together(outs, resume=True), unbroken)


def test_a_full_disk_keeps_the_states_before(unbroken, outs, monkeypatch):
    save, written = training.Run.save, []

    def full(run, path, final=False):
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(path)
        save(run, path, final)

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "save", full)
        with pytest.raises(OSError, match="No space left"):
            together(outs)
    assert_close(together(outs, resume=True), unbroken)


# a cell that fails


def poison(patch, step, cell, part):
    """Before this step, a weight of one cell becomes NaN."""

    def spoil(self):
        name = next(name for name in self.parameters if name.startswith(part))
        self.parameters[name].data[cell].view(-1)[0] = torch.nan

    before_step(patch, step, spoil)


@pytest.mark.parametrize(
    ("step", "part"),
    [
        (3, "encoder"),
        (STEPS + 1, "decoder"),
        (2 * STEPS, "encoder"),
        *(pytest.param(*case, marks=pytest.mark.deep) for case in ((3, "decoder"), (STEPS + 1, "encoder"))),
        pytest.param(2 * STEPS, "decoder", marks=pytest.mark.deep),
    ],
)
def test_a_cell_that_diverges_is_named_and_changes_no_other(outs, tmp_path, monkeypatch, step, part):
    whole = together(outs)
    others = [tmp_path / "again" / out.name for out in outs]
    with monkeypatch.context() as patch:
        poison(patch, step, 1, part)
        first, failed, last = together(others)
    assert max(difference(first, whole[0]), difference(last, whole[2])) < 1e-6  # after it, two are stacked
    assert isinstance(failed, FloatingPointError)
    assert "no longer finite after step" in str(failed)
    state = training.resume_path(others[1])
    assert sorted(p.name for p in others[0].parent.iterdir()) == sorted(
        [others[0].name, others[2].name, *([state.name] if step > STEPS else [])]
    )
    if step > STEPS:
        assert f"the last finite state is in {state}" in str(failed)
        assert checkpoints.read(state)[2]["step"] == (step - 1) // STEPS * STEPS
        assert_close(together(others, resume=True), whole)


def test_cells_that_all_diverge_are_all_named(outs):
    """Nothing is planted: such a learning rate makes weights infinite."""
    found = together(outs, [dataclasses.replace(own, lr=1e38, kl=False) for own in CELLS])
    assert [type(one) for one in found] == [FloatingPointError] * 3
    assert list(outs[0].parent.iterdir()) == []


def test_a_cell_whose_bias_cannot_be_measured_ends_alone(outs, unbroken, monkeypatch):
    def refuses(model, x, tf, tb, **given):
        if tf == 0.5:
            raise ValueError("exact gradient: inf")
        return measure(model, x, tf, tb, **given)

    with_few_figures(monkeypatch)
    measure = bias_analysis.bias
    monkeypatch.setattr(bias_analysis, "bias", refuses)
    found = together(outs, track="bias", track_images=2, track_draws=2)
    assert str(found[1]) == "exact gradient: inf"
    assert_close([found[0], found[2]], [unbroken[0], unbroken[2]])


# what does not fit


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (
            {"batch_size": BATCH + 1},
            "settings: expected cells that differ only in .*, got batch_size 11 for cell 2 and 10 for cell 0",
        ),
        ({"epochs": 4}, "got epochs 4 for cell 2"),
        ({"kl": False}, "got kl 'none' for cell 2"),
        ({"optimizer": "adam"}, "got optimizer 'adam' for cell 2"),
        ({"config": {"latents": 2}}, "got config {'latents': 2} for cell 2"),
        ({"architecture": "binary-autoencoder"}, "got architecture 'binary-autoencoder' for cell 2"),
        ({"estimator": "disarm"}, "estimator: expected one for categorical latents, got disarm"),
    ],
    ids=str,
)
def test_cells_that_differ_too_much_are_refused(outs, other, match):
    with pytest.raises(ValueError, match=match):
        together(outs, [*CELLS[:2], dataclasses.replace(CELLS[2], **other)])
    assert list(outs[0].parent.iterdir()) == []


def test_files_are_one_for_each_cell(outs):
    for given, match in [
        (outs[:2], "outs: expected one file for each of 3 settings, got 2"),
        ([*outs[:2], outs[0]], r"outs: .*cell0.safetensors twice"),
        ([*outs[:2], training.resume_path(outs[0])], r"outs: .*cell0.resume.safetensors twice"),
    ]:
        with pytest.raises(ValueError, match=match):
            together(given)
    with pytest.raises(ValueError, match=r"settings: expected .*, got none"):
        training.ensemble.train_together([], IMAGES, VALIDATION, [])


def test_an_interrupted_cell_is_not_overwritten(outs, monkeypatch):
    interrupt(outs, monkeypatch, 3)
    training.resume_path(outs[0]).unlink()
    with pytest.raises(FileExistsError, match=r"cell1\.resume\.safetensors: this interrupted training exists"):
        together(outs)
    with pytest.raises(
        ValueError, match=r"resume: .*cell1.resume.safetensors, which was trained with tf 0.5 \(asked: 0.6\)"
    ):
        together(outs, [dataclasses.replace(own, tf=0.6) for own in CELLS], resume=True)


def test_a_bias_that_no_reference_serves_stands_for_every_cell(outs):
    config = CELLS[0].config | {"latents": 40, "categories": 16}
    running = "reinforce:baseline='running-mean'"
    cells = [dataclasses.replace(own, config=config, estimator=running) for own in CELLS]
    found = together(outs, cells, track="bias")
    assert [type(one) for one in found] == [ValueError] * 3
    assert all("depends on the draws before" in str(one) for one in found)
    assert list(outs[0].parent.iterdir()) == []


class IntoZeros(nn.Module):
    """Writes what is stacked into a tensor that is not."""

    def forward(self, h):
        return torch.zeros(h.shape).add_(h)


LAYERS = {
    "batch norm": (lambda: nn.BatchNorm1d(16), r"training may change the buffer encoder\.1\.running_mean"),
    "dropout": (lambda: nn.Dropout(0.5), "random"),
    "in place": (IntoZeros, "the broadcast shape"),
}


def with_layer(monkeypatch, layer):
    def odd(**config):
        encoder = nn.Sequential(nn.Flatten(), layer(), nn.Linear(16, 6))
        decoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.Unflatten(1, (1, 4, 4)))
        return gradlab.LatentModel(encoder, decoder, latents=2, categories=3)

    monkeypatch.setitem(networks.ARCHITECTURES, "categorical-vae", odd)


def runs(cells=CELLS):
    return [training.Run(own, IMAGES, VALIDATION, "cpu") for own in cells]


@pytest.mark.parametrize("name", LAYERS)
def test_models_that_cannot_be_stacked_train_one_after_another(outs, tmp_path, monkeypatch, name):
    layer, reason = LAYERS[name]
    with_layer(monkeypatch, layer)
    assert re.search(reason, stack.reason_against(runs()))
    assert isinstance(engines.engine_for(runs()), engines.InTurn)
    if name == "dropout":
        return  # its training takes torch's own random numbers
    for model, wanted in zip(together(outs), alone(tmp_path / "alone"), strict=True):
        assert all(torch.equal(t, model.state_dict()[key]) for key, t in wanted.state_dict().items())


@pytest.mark.parametrize(
    ("estimator", "reason"),
    [("rloo:n=4", r"rloo\(n=4\) takes 4 loss evaluations, decoupled-st-gs 1"), ("exact", "exact decodes all config")],
)
def test_estimators_that_cannot_be_stacked_train_one_after_another(outs, tmp_path, estimator, reason):
    cells = [*CELLS[:2], dataclasses.replace(CELLS[2], estimator=estimator)]
    assert re.search(reason, stack.reason_against(runs(cells)))
    assert_close(together(outs, cells), alone(tmp_path / "alone", cells))


def test_in_place_layers_that_vmap_can_take_are_taken(outs, tmp_path, monkeypatch):
    def odd(**config):
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(inplace=True), nn.Linear(8, 6))
        decoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.Unflatten(1, (1, 4, 4)))
        return gradlab.LatentModel(encoder, decoder, latents=2, categories=3)

    monkeypatch.setitem(networks.ARCHITECTURES, "categorical-vae", odd)
    assert_close(together(outs), alone(tmp_path / "alone"))


def test_nothing_is_printed(outs, capfd):
    together(outs)
    assert capfd.readouterr() == ("", "")
    assert ensemble.VARIED == ("seed", "tf", "tb", "lr", "estimator")


# what a step is made of


@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
def test_updates_are_those_of_torch_s_optimizers(optimizer):
    """Over the steps in which RAdam turns from unrectified to rectified; each model with a learning rate of its own."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, 5, dtype=torch.float64, generator=generator)
    gradients = torch.randn(40, 3, 4, 5, dtype=torch.float64, generator=generator)
    lr = [0.1, 0.01, 0.3]
    wanted = []
    for i in range(3):
        own = nn.Parameter(start[i].clone())
        plain = training.OPTIMIZERS[optimizer]([own], lr=lr[i])
        for gradient in gradients:
            own.grad = gradient[i].clone()
            plain.step()
        wanted.append(own.detach())
    found, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for t, gradient in enumerate(gradients, 1):
        of_step = updates.numbers(optimizer, torch.tensor(float(t), dtype=torch.float64))
        updates.update([found], [gradient], [mean], [square], torch.tensor(lr, dtype=torch.float64), of_step)
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-13, atol=1e-13)


def test_cells_of_one_seed_share_batches_and_noise_and_temperatures_move():
    cells = [settings(seed=1), settings(seed=2, tf="1:0.5"), settings(seed=1, tb="2:0.3:cosine", estimator="rebar")]
    stacked = stack.Stack(runs(cells))
    seen = []
    for step in range(STEPS + 2):  # into the second epoch
        if step % STEPS == 0:
            stacked.feed.begin(step)
        if step in (0, streams.BLOCK):
            stacked.feed.fill(step)
        seen.append(stacked.feed.take(stacked.runs[0].examples(step)))
    for step, (x, noise, tf, tb) in enumerate(seen):
        alone = runs(cells)
        for i, run in enumerate(alone):
            run.step = step
            batch = run.batches_left()[0]
            assert torch.equal(x[i], run.images.floats(batch))
            assert torch.equal(noise[: run.estimator.noise_arrays, i], run.noise(run.estimator, x[i]))
            assert [float(tf[i]), float(tb[i])] == pytest.approx(run.temperatures(step), rel=1e-6)
        assert torch.equal(x[0], x[2])
        assert torch.equal(noise[:, 0], noise[:, 2])
        assert not torch.equal(noise[:, 0], noise[:, 1])
    assert len({float(tf[1]) for _, _, tf, _ in seen}) == len(seen)


def test_states_are_written_after_every_epoch_unless_that_takes_long(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    class Slow:
        def save(self, path):
            now[0] += 0.6

    for cells, wanted in [(1, [True] * 6), (2, [True, False, False, True, False, False])]:
        pace, due = loop.Pace(), []
        for _ in range(6):
            pace.next_epoch()
            due.append(pace.due)
            for _ in range(cells if pace.due else 0):
                pace.save(Slow(), "state")
            now[0] += 10  # of an epoch's steps
        assert due == wanted


def test_on_a_cpu_an_ensemble_is_its_cells_one_after_another(outs, unbroken, monkeypatch):
    monkeypatch.undo()
    assert isinstance(engines.engine_for(runs()), engines.InTurn)
    for model, wanted in zip(together(outs), unbroken, strict=True):
        assert all(torch.equal(t, model.state_dict()[name]) for name, t in wanted.state_dict().items())


TURNS = list(itertools.product([0, 1, 2], [1, 4, STEPS, STEPS + 1, 2 * STEPS + 3]))
FEW_TURNS = [(0, 1), (1, 4), (2, STEPS), (0, STEPS + 1), (1, 2 * STEPS + 3)]  # each step, and each cell


@pytest.mark.parametrize(
    ("cell", "step"), [turn if turn in FEW_TURNS else pytest.param(*turn, marks=pytest.mark.deep) for turn in TURNS]
)
def test_an_interrupt_between_cells_that_train_in_turn_loses_nothing(outs, unbroken, monkeypatch, cell, step):
    """Cells before this one have made their epoch, those after it have not begun it."""
    monkeypatch.setattr(engines, "stacks_pay", lambda device: False)

    def acted(run, batch, one_step=training.Run.one_step):
        if run.settings == CELLS[cell] and run.step + 1 == step:
            press_ctrl_c()
        one_step(run, batch)

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "one_step", acted)
        with pytest.raises(KeyboardInterrupt, match="--resume continues all cells"):
            together(outs)
    for model, wanted in zip(together(outs, resume=True), unbroken, strict=True):
        assert all(torch.equal(t, model.state_dict()[name]) for name, t in wanted.state_dict().items())
        assert model.provenance["history"] == wanted.provenance["history"]
    assert_nothing_left(outs)


def test_stacks_of_one_each_are_as_one_stack(outs, unbroken, monkeypatch):
    monkeypatch.setattr(ensemble, "engine_for", lambda runs: engines.Several([engines.Stacked([run]) for run in runs]))
    interrupt(outs, monkeypatch, STEPS + 2)
    assert_close(together(outs, resume=True), unbroken)


def test_timing_a_stack_leaves_it_as_it_was():
    stacked = engines.Stacked(runs())
    before = [tensor.clone() for tensor in stacked.stack.state]
    assert stacked.seconds() > 0
    assert all(map(torch.equal, stacked.stack.state, before))


def test_stacked_evaluation_is_that_of_each_model_however_it_is_cut(monkeypatch):
    cells = runs([settings(seed=1), settings(seed=2, tf=0.5), settings(seed=1, tf=3.0)])
    wanted = torch.tensor([run.validate() for run in cells])
    stacked = stack.Stack(cells)
    torch.testing.assert_close(stacked.evaluate(VALIDATION).float(), wanted, rtol=1e-5, atol=0)
    monkeypatch.setattr(stack, "OUTPUTS", 16 * stack.VALIDATED)
    torch.testing.assert_close(stacked.evaluate(VALIDATION).float(), wanted, rtol=1e-5, atol=0)
