"""Training: an interrupted run ends in the weights of an unbroken one, bit for bit, and loses nothing."""

import os
import signal

import pytest
import torch

from gradlab import checkpoints, networks, training
from gradlab.datasets import Images
from gradlab.errors import BadFile

from .kill_sweep import FORKED
from .small_trainings import (
    CONFIG,
    EPOCHS,
    IMAGES,
    STEPS,
    VALIDATION,
    assert_same,
    before_step,
    blocks,
    interrupt,
    press_ctrl_c,
    settings,
    train,
)

# interruption


@pytest.mark.parametrize("step", [1, 4, STEPS, STEPS + 1, 2 * STEPS - 1, 2 * STEPS, EPOCHS * STEPS])
def test_an_interrupted_run_ends_in_the_weights_of_an_unbroken_one(unbroken, out, monkeypatch, step):
    interrupt(out, monkeypatch, step)
    assert list(out.parent.iterdir()) == [training.resume_path(out)]
    assert_same(train(out, resume=True), unbroken)
    assert list(out.parent.iterdir()) == [out]


def test_a_run_may_be_interrupted_many_times(unbroken, out, monkeypatch):
    for step in (2, 3, STEPS, STEPS + 2, 3 * STEPS):
        interrupt(out, monkeypatch, step, **({"resume": True} if step > 2 else {}))
    assert_same(train(out, resume=True), unbroken)


def test_every_step_has_noise_of_its_own_whatever_came_before(tmp_path, monkeypatch):
    seen, backward = [], training.backward

    def noted(model, estimator, x, noise, kl, baseline):
        seen.append(noise.clone())
        return backward(model, estimator, x, noise, kl)

    monkeypatch.setattr("gradlab.training.run.backward", noted)
    train(tmp_path / "whole.safetensors")
    assert len({tuple(noise.flatten().tolist()) for noise in seen}) == EPOCHS * STEPS
    whole, seen[:] = list(seen), []
    interrupt(tmp_path / "vae.safetensors", monkeypatch, STEPS + 3)
    train(tmp_path / "vae.safetensors", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole, seen, strict=True))


@pytest.mark.parametrize("optimizer", ["adam", "radam"])
def test_each_optimizer_s_state_is_restored(tmp_path, monkeypatch, optimizer):
    whole = train(tmp_path / "whole.safetensors", optimizer=optimizer, epochs=5)
    interrupt(tmp_path / "vae.safetensors", monkeypatch, 4 * STEPS - 2, optimizer=optimizer, epochs=5)
    assert_same(train(tmp_path / "vae.safetensors", optimizer=optimizer, epochs=5, resume=True), whole)


def test_an_interrupt_while_validating_is_heeded_and_loses_nothing(unbroken, out, monkeypatch):
    evaluate = training.evaluate

    def interrupted(*given):
        press_ctrl_c()
        return evaluate(*given)

    with monkeypatch.context() as patch:
        patch.setattr("gradlab.training.run.evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step {STEPS} of"):
            train(out)
    assert_same(train(out, resume=True), unbroken)


def test_a_second_ctrl_c_interrupts_at_once_and_keeps_the_last_state(unbroken, out, monkeypatch):
    interrupt(out, monkeypatch, 3)
    with monkeypatch.context() as patch:
        before_step(patch, STEPS + 2, lambda: (press_ctrl_c(), press_ctrl_c()))
        with pytest.raises(KeyboardInterrupt):
            train(out, resume=True)
    assert checkpoints.read(training.resume_path(out))[2]["step"] == STEPS
    assert_same(train(out, resume=True), unbroken)


def test_ctrl_c_is_handed_back_after_the_training(out):
    def own(number, frame):
        pass

    before = signal.signal(signal.SIGINT, own)
    try:
        train(out, epochs=1)
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


def train_and_be_killed(out, when):
    """In a process of its own: SIGKILL at the second file that takes its name."""
    torch.set_num_threads(1)
    replace, calls = os.replace, []

    def killed(source, target):
        calls.append(target)
        if len(calls) == 2 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = killed
    train(out)


@pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.deep), "after"])
def test_a_run_killed_while_or_after_its_state_is_written_goes_on(unbroken, out, when):
    """The second state is cut off before it takes its name, or is just written."""
    process = FORKED.Process(target=train_and_be_killed, args=(out, when))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert not out.exists()
    done = checkpoints.read(training.resume_path(out))[2]["step"]
    assert done == {"before": STEPS, "after": 2 * STEPS}[when]
    assert_same(train(out, resume=True), unbroken)


@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_full_disk_keeps_the_state_before(unbroken, out, monkeypatch, at_the_end):
    save = training.Run.save

    def full(run, path, final=False):
        if final if at_the_end else run.step == 2 * STEPS:
            raise OSError(28, "No space left on device")
        save(run, path, final)

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "save", full)
        with pytest.raises(OSError, match="No space left"):
            train(out)
    assert_same(train(out, resume=True), unbroken)


def test_a_kept_model_is_there_before_the_state_that_has_gone_past_it(unbroken, out, monkeypatch):
    """Otherwise a run killed between the two would never write it."""
    written, save = [], training.Run.save

    def noted(run, path, final=False):
        written.append(path.name)
        save(run, path, final)

    monkeypatch.setattr(training.Run, "save", noted)
    train(out, keep_every=1, epochs=1)
    assert written == ["vae-epoch0001.safetensors", "vae.resume.safetensors", "vae.safetensors"]


# resuming


def test_more_epochs_than_planned_go_on_from_the_state(unbroken, out, monkeypatch):
    interrupt(out, monkeypatch, 2 * STEPS, epochs=2)
    assert_same(train(out, resume=True), unbroken)


def test_fewer_epochs_than_done_are_refused(out, monkeypatch):
    interrupt(out, monkeypatch, 2 * STEPS)
    with pytest.raises(ValueError, match=r"has 2 epochs \(asked: epochs 1\)"):
        train(out, resume=True, epochs=1)


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"tf": 1.0}, r"tf 1.6 \(asked: 1.0\)"),
        ({"tb": 1.6}, r"tb 1.3 \(asked: 1.6\)"),
        ({"lr": 0.1}, r"lr 0.01 \(asked: 0.1\)"),
        ({"seed": 6}, r"seed 5 \(asked: 6\)"),
        ({"kl": False}, r"kl model \(asked: none\)"),
        ({"batch_size": 11}, r"batch_size 10 \(asked: 11\)"),
        ({"optimizer": "adam"}, r"optimizer radam \(asked: adam\)"),
        ({"estimator": "st-gs"}, r"estimator decoupled-st-gs \(asked: st-gs\)"),
        ({"config": CONFIG | {"hidden": [9]}}, r"config .*'hidden': 8.*asked: .*'hidden': 9"),
        ({"tf": 1.0, "seed": 6}, r"tf 1.6 \(asked: 1.0\), seed 5 \(asked: 6\)"),
    ],
    ids=lambda v: ",".join(v) if isinstance(v, dict) else "",
)
def test_other_settings_are_refused_by_name(out, monkeypatch, other, match):
    interrupt(out, monkeypatch, 2)
    content = training.resume_path(out).read_bytes()
    with pytest.raises(ValueError, match=match):
        train(out, resume=True, **other)
    assert training.resume_path(out).read_bytes() == content


@pytest.mark.parametrize(
    ("images", "validation", "match"),
    [
        (blocks(64, 2), VALIDATION, "data sha256"),
        (IMAGES.first(63), VALIDATION, r"data images 64 \(asked: 63\)"),
        (IMAGES, blocks(20, 3), "validation sha256"),
        (IMAGES, VALIDATION.first(19), r"validation images 20 \(asked: 19\)"),
    ],
)
def test_other_images_are_refused(out, monkeypatch, images, validation, match):
    interrupt(out, monkeypatch, 2)
    with pytest.raises(ValueError, match=match):
        training.train(settings(), images, validation, out, resume=True)


def test_the_same_settings_written_otherwise_are_the_same(unbroken, out, monkeypatch):
    """Tuples become lists in the file, and the data set may be named by its folder."""
    interrupt(out, monkeypatch, 2, lr=1, epochs=1)
    renamed = Images(IMAGES.pixels, "elsewhere", "train", IMAGES.sha256)
    own = settings(lr=1.0, epochs=1, config=CONFIG | {"hidden": (8,), "image_shape": (1, 4, 4)})
    training.train(own, renamed, VALIDATION, out, resume=True)
    assert out.is_file()


def test_resuming_without_a_state_is_an_error(out):
    with pytest.raises(FileNotFoundError, match="no interrupted training"):
        train(out, resume=True)
    train(out, epochs=1)
    with pytest.raises(FileNotFoundError, match="no interrupted training"):
        train(out, resume=True)


def test_an_interrupted_training_is_not_overwritten_by_a_new_one(unbroken, out, monkeypatch):
    interrupt(out, monkeypatch, STEPS + 3)
    content = training.resume_path(out).read_bytes()
    with pytest.raises(FileExistsError, match=r"this interrupted training exists.*--resume"):
        train(out)
    assert training.resume_path(out).read_bytes() == content
    assert_same(train(out, resume=True), unbroken)


@pytest.fixture
def state(out, monkeypatch):
    interrupt(out, monkeypatch, STEPS + 3)
    return checkpoints.read(training.resume_path(out))


def without(mapping, key):
    return {k: v for k, v in mapping.items() if k != key}


ODD = {
    "no tensors": lambda t, p: ({}, p),
    "no sums": lambda t, p: (without(t, "sums"), p),
    "sums of another shape": lambda t, p: (t | {"sums": torch.zeros(4)}, p),
    "a name with too few parts": lambda t, p: (t | {"optimizer.0": torch.zeros(1)}, p),
    "a name that is no number": lambda t, p: (t | {"optimizer.x.step": torch.zeros(())}, p),
    "a parameter that is none": lambda t, p: (t | {"optimizer.99.step": torch.zeros(())}, p),
    "a moment of another shape": lambda t, p: (t | {"optimizer.0.exp_avg": torch.zeros(3, 3)}, p),
    "a moment that is missing": lambda t, p: (without(t, "optimizer.0.exp_avg"), p),
    "a moment too many": lambda t, p: (t | {"optimizer.0.other": torch.zeros(())}, p),
    "no provenance": lambda t, p: (t, {}),
    "no settings": lambda t, p: (t, without(p, "settings")),
    "settings that are a list": lambda t, p: (t, p | {"settings": []}),
    "no data": lambda t, p: (t, without(p, "data")),
    "data that is a number": lambda t, p: (t, p | {"data": 3}),
    "no step": lambda t, p: (t, without(p, "step")),
    "a step that is a text": lambda t, p: (t, p | {"step": "3"}),
    "a step below 1": lambda t, p: (t, p | {"step": -3}),
    "a step that is a half": lambda t, p: (t, p | {"step": 9.5}),
    "no history": lambda t, p: (t, without(p, "history")),
    "a history that is a list": lambda t, p: (t, p | {"history": []}),
    "a history without a figure": lambda t, p: (t, p | {"history": without(p["history"], "train_kl")}),
    "a history too short": lambda t, p: (t, p | {"history": {name: [] for name in p["history"]}}),
    "a history of text": lambda t, p: (t, p | {"history": {name: ["x"] for name in p["history"]}}),
    "no seconds": lambda t, p: (t, without(p, "seconds")),
    "seconds that are a list": lambda t, p: (t, p | {"seconds": []}),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_a_state_with_parts_missing_or_odd_is_refused(out, state, odd):
    model, tensors, provenance = state
    checkpoints.write(training.resume_path(out), model, *odd(tensors, provenance))
    with pytest.raises(BadFile, match="expected a complete state of a training") as raised:
        train(out, resume=True)
    assert "\n" not in str(raised.value)


def test_a_state_whose_model_is_another_is_refused(out, state):
    other = networks.build("categorical-vae", CONFIG | {"hidden": [9]}, seed=0)
    checkpoints.write(training.resume_path(out), other, *state[1:])
    with pytest.raises(BadFile, match="expected a complete state of a training"):
        train(out, resume=True)


def test_a_state_cut_short_is_refused(out, state):
    path = training.resume_path(out)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(BadFile, match="expected a complete safetensors file"):
        train(out, resume=True)
