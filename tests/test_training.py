"""Training: an interrupted run ends in the weights of an unbroken one, bit for bit, and loses nothing."""

import json
import math
import os
import random
import signal

import numpy as np
import pytest
import torch

import gradlab
from gradlab import checkpoints, choices, estimators, files, networks, training
from gradlab.datasets import Images
from gradlab.errors import BadFile, UnknownName
from gradlab.latents import CATEGORICAL
from gradlab.training.run import check_fit

from .kill_sweep import FORKED

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


@pytest.fixture
def out(tmp_path):
    return tmp_path / "vae.safetensors"


def train(out, **given):
    own = {k: given.pop(k) for k in list(given) if k in training.Settings.__dataclass_fields__}
    return training.train(settings(**own), IMAGES, VALIDATION, out, **given)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return train(tmp_path_factory.mktemp("unbroken") / "vae.safetensors")


def assert_same(a, b):
    """Weights bit for bit, and the history."""
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name
    assert a.provenance["history"] == b.provenance["history"]
    assert a.provenance["step"] == b.provenance["step"]


def test_numbers_are_float32_whatever_the_caller_has_set(tmp_path, unbroken):
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(train(tmp_path / "vae.safetensors"), unbroken)


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


# the whole run


def test_a_training_writes_its_model_and_nothing_else(out):
    model = train(out)
    assert list(out.parent.iterdir()) == [out]
    loaded = gradlab.load(out)
    assert_same(loaded, model)
    assert loaded.provenance["settings"]["estimator"] == "decoupled-st-gs"
    assert loaded.provenance["data"] == {"name": "blocks", "sha256": IMAGES.sha256, "images": 64}
    assert loaded.provenance["step"] == EPOCHS * STEPS
    assert checkpoints.read(out)[1] == {}


def test_the_history_has_all_figures_of_every_epoch(unbroken):
    history = unbroken.provenance["history"]
    assert set(history) == set(training.HISTORY)
    assert all(len(values) == EPOCHS and all(map(math.isfinite, values)) for values in history.values())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(unbroken, tmp_path):
    assert_same(train(tmp_path / "again.safetensors"), unbroken)
    other = train(tmp_path / "other.safetensors", seed=6)
    assert not torch.equal(other.state_dict()["encoder.1.weight"], unbroken.state_dict()["encoder.1.weight"])


def test_noise_order_and_weights_each_depend_on_the_seed():
    runs = [training.Run(settings(seed=seed), IMAGES, VALIDATION, "cpu") for seed in (0, 1)]
    weights = [run.model.state_dict()["encoder.1.weight"] for run in runs]
    orders = [torch.cat(run.batches_left()) for run in runs]
    noise = [run.noise(run.estimator, torch.zeros(BATCH)) for run in runs]
    assert not torch.equal(*weights)
    assert not torch.equal(*orders)
    assert not torch.equal(*noise)
    runs[0].step = STEPS
    assert not torch.equal(orders[0], torch.cat(runs[0].batches_left()))


OTHER = [{"tf": 0.5}, {"tb": 3.0}, {"kl": False}, {"kl": "sampled"}, {"optimizer": "adam"}, {"lr": 0.02}]


@pytest.mark.parametrize("other", OTHER, ids=str)
def test_every_setting_matters(unbroken, tmp_path, other):
    model = train(tmp_path / "vae.safetensors", **other)
    assert not torch.equal(model.state_dict()["encoder.1.weight"], unbroken.state_dict()["encoder.1.weight"])


def test_the_loss_falls_below_what_pictures_without_a_code_could_reach(out):
    """Without the KL term, which at this size of picture outweighs what a code is worth."""
    history = train(out, epochs=60, lr=0.02, kl=False).provenance["history"]
    x, mean = VALIDATION.floats(), IMAGES.floats().mean(0, keepdim=True)
    of_the_mean = float(-(x * mean.log() + (1 - x) * (1 - mean).log()).sum((1, 2, 3)).mean())
    assert history["train_loss"][-1] < 0.9 * history["train_loss"][0]
    assert history["validation_loss"][-1] < 0.9 * of_the_mean


def test_the_validation_images_are_the_ones_validated_on(out):
    history = train(out).provenance["history"]
    model = gradlab.load(out)
    found = training.evaluate(model, VALIDATION, 1.6, 5)
    names = ("validation_loss", "validation_kl", "validation_kl_sampled")
    assert found == pytest.approx([history[name][-1] for name in names], rel=1e-6)
    assert found != pytest.approx(training.evaluate(model, IMAGES, 1.6, 5), rel=1e-3)


def test_evaluation_does_not_depend_on_its_batches_but_for_the_noise():
    model = networks.build("categorical-vae", CONFIG, seed=0)
    logits = model.logits(VALIDATION.floats()).detach()
    kls = [float(CATEGORICAL.kl_to_uniform(logits / t).mean()) for t in (1, 1.6)]
    for batch in (1000, 7):
        loss, *found = training.evaluate(model, VALIDATION, 1.6, 0, batch)
        assert found == pytest.approx(kls, rel=1e-5)
        assert loss == pytest.approx(11, abs=2)


def test_the_global_random_state_is_untouched(out):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    train(out)
    networks.build("categorical-vae", CONFIG, seed=1)
    networks.build("categorical-vae", CONFIG)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


def test_the_accelerators_random_state_is_untouched(monkeypatch):
    def seeded(*given):
        pytest.fail("the accelerator's generator was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeded)
    networks.build("categorical-vae", CONFIG, seed=1)


def test_the_global_random_state_does_not_matter(unbroken, out):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert_same(train(out), unbroken)


def test_keep_every_writes_models_that_can_be_loaded(unbroken, out):
    train(out, epochs=5, keep_every=2)
    kept = sorted(p.name for p in out.parent.iterdir())
    assert kept == ["vae-epoch0002.safetensors", "vae-epoch0004.safetensors", "vae.safetensors"]
    history = gradlab.load(out).provenance["history"]
    for epoch in (2, 4):
        model = gradlab.load(out.with_name(f"vae-epoch{epoch:04d}.safetensors"))
        assert model.provenance["history"]["train_loss"] == history["train_loss"][:epoch]
        assert checkpoints.read(out.with_name(f"vae-epoch{epoch:04d}.safetensors"))[1] == {}


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


def test_a_full_disk_keeps_the_state_before(unbroken, out, monkeypatch):
    save = training.Run.save

    def full(run, path, final=False):
        if run.step == 2 * STEPS:
            raise OSError(28, "No space left on device")
        save(run, path, final)

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "save", full)
        with pytest.raises(OSError, match="No space left"):
            train(out)
    assert_same(train(out, resume=True), unbroken)


def test_a_full_disk_at_the_very_end_keeps_the_state(unbroken, out, monkeypatch):
    save = training.Run.save

    def full(run, path, final=False):
        if final:
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


# a loss that is no longer finite


def poison(monkeypatch, step, part="encoder"):
    """Before this step, one weight becomes NaN."""

    def after_step(run, batch, one_step=training.Run.one_step):
        if run.step + 1 == step:
            with torch.no_grad():
                next(getattr(run.model, part).parameters()).view(-1)[0] = torch.nan
        one_step(run, batch)

    monkeypatch.setattr(training.Run, "one_step", after_step)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("step", [STEPS + 1, STEPS + 3, 2 * STEPS])
def test_a_loss_that_is_not_finite_stops_with_the_state_before_kept(unbroken, out, monkeypatch, part, step):
    with monkeypatch.context() as patch:
        poison(patch, step, part)
        with pytest.raises(FloatingPointError, match=r"no longer finite.*the last finite state is in"):
            train(out)
    assert checkpoints.read(training.resume_path(out))[2]["step"] == STEPS
    assert not out.exists()
    assert_same(train(out, resume=True), unbroken)


def test_in_the_first_epoch_no_state_is_promised(out, monkeypatch):
    poison(monkeypatch, 3)
    with pytest.raises(FloatingPointError) as raised:
        train(out)
    assert "last finite state" not in str(raised.value)
    assert list(out.parent.iterdir()) == []


def test_ctrl_c_after_divergence_does_not_replace_the_good_state(unbroken, out, monkeypatch):
    with monkeypatch.context() as patch:
        poison(patch, STEPS + 2)
        before_step(patch, STEPS + 3, press_ctrl_c)
        with pytest.raises(FloatingPointError):
            train(out)
    assert checkpoints.read(training.resume_path(out))[2]["step"] == STEPS
    assert_same(train(out, resume=True), unbroken)


def test_weights_that_the_last_step_of_an_epoch_spoils_are_not_saved(unbroken, out, monkeypatch):
    one_step = training.Run.one_step

    def spoiled(run, batch):
        one_step(run, batch)
        if run.step == 2 * STEPS:
            with torch.no_grad():
                run.model.decoder[-2].bias[0] = torch.inf

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "one_step", spoiled)
        with pytest.raises(FloatingPointError):
            train(out)
    assert checkpoints.read(training.resume_path(out))[2]["step"] == STEPS


def test_a_validation_loss_that_is_not_finite_stops_too(unbroken, out, monkeypatch):
    """Finite weights can be so large that the loss is not."""
    interrupt(out, monkeypatch, STEPS)
    with monkeypatch.context() as patch:
        patch.setattr("gradlab.training.run.evaluate", lambda *given: (math.inf, 0.0))
        with pytest.raises(FloatingPointError):
            train(out, resume=True)
    assert_same(train(out, resume=True), unbroken)


def test_a_learning_rate_far_too_large_ends_in_one_of_the_two(out):
    """Nothing is planted: the run itself diverges, or does not."""
    try:
        train(out, lr=1e30)
    except FloatingPointError:
        assert not out.exists()
    else:
        gradlab.load(out)


# the backward pass


def straight_through_gradients(model, x, g, tf, tb, kl):
    """Plain autograd: the code in the forward pass, the relaxed one in the backward pass."""
    logits = model.encoder(x).reshape(len(x), model.latents, model.categories)
    z = torch.nn.functional.one_hot((logits / tf + g).argmax(-1), model.categories).to(x.dtype)
    q = torch.softmax(logits / tb + g, -1)
    output = model.decoder(z + (q - q.detach()))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(output, x, reduction="none").sum((1, 2, 3))
    p = torch.softmax(logits / (tf if kl == "sampled" else 1), -1)
    divergence = (p * (p.log() - math.log(1 / model.categories))).sum((1, 2))
    total = loss.mean() + (divergence.mean() if kl != "none" else 0)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(total, parameters), strict=True))
    return gradients, loss.mean(), divergence.mean()


def spread_out():
    """A model with logits far from equal, its images, and noise."""
    model = networks.build("categorical-vae", CONFIG, seed=2).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    x = IMAGES.first(9).floats().double()
    g = CATEGORICAL.noise((1, 9, 2, 3), dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    return model, x, g


@pytest.mark.parametrize("kl", choices.KL_TERMS)
@pytest.mark.parametrize(("tf", "tb"), [(1.6, 1.3), (0.5, 2.0), (1.0, 1.0)])
def test_the_gradient_is_that_of_plain_straight_through_autograd(tf, tb, kl):
    model, x, g = spread_out()
    wanted, loss, divergence = straight_through_gradients(model, x, g[0], tf, tb, kl)
    found = training.backward(model, estimators.get("decoupled-st-gs", tf=tf, tb=tb), x, g, kl)
    for name, parameter in model.named_parameters():
        assert float(wanted[name].norm()) > 1e-3
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-12, atol=1e-12, msg=name)
    assert found[0].item() == pytest.approx(loss.item(), rel=1e-12)
    assert found[1].item() == pytest.approx(divergence.item() if kl != "none" else 0, rel=1e-12)


def test_the_temperatures_matter_to_that_gradient():
    """The comparison above would find a wrong temperature."""
    model, x, g = spread_out()
    name = "encoder.1.weight"
    base = straight_through_gradients(model, x, g[0], 1.6, 1.3, "model")[0][name]
    for tf, tb, kl in [(1.6, 1.31, "model"), (0.4, 1.3, "model"), (1.6, 1.3, "none"), (1.6, 1.3, "sampled")]:
        other = straight_through_gradients(model, x, g[0], tf, tb, kl)[0][name]
        assert float((other - base).norm() / base.norm()) > 1e-3


def test_gradients_are_added_to_those_that_are_there():
    model, x, g = spread_out()
    estimator = estimators.get("decoupled-st-gs", tf=1.6, tb=1.3)
    training.backward(model, estimator, x, g)
    once = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    training.backward(model, estimator, x, g)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * once[name])


@pytest.mark.parametrize("name", estimators.names())
def test_every_estimator_trains_or_says_why_not(out, name):
    if "categorical" not in estimators.find(name).kinds:
        with pytest.raises(ValueError, match=f"estimator: expected one for categorical latents, got {name}"):
            train(out, estimator=name, epochs=1)
        return
    model = train(out, estimator=name, epochs=1)
    start = networks.build("categorical-vae", CONFIG, seed=5)
    for key in ("encoder.1.weight", "decoder.1.weight"):
        assert not torch.equal(model.state_dict()[key], start.state_dict()[key])


# what does not fit


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"tf": 0}, "tf: expected .*, got 0"),
        ({"tb": -1.0}, "tb: expected .*, got -1.0"),
        ({"tf": math.nan}, "tf: expected .*, got nan"),
        ({"tb": math.inf}, "tb: expected .*, got inf"),
        ({"tf": None}, "tf: expected .*, got None"),
        ({"tf": [1.0]}, r"tf: expected .*, got \[1.0\]"),
        ({"lr": 0}, "lr: expected .*, got 0"),
        ({"lr": math.nan}, "lr: expected .*, got nan"),
        ({"lr": "fast"}, "lr: expected .*, got 'fast'"),
        ({"lr": None}, "lr: expected .*, got None"),
        ({"batch_size": 0}, "batch_size: expected .*, got 0"),
        ({"batch_size": 2.5}, "batch_size: expected .*, got 2.5"),
        ({"batch_size": "10"}, "batch_size: expected .*, got '10'"),
        ({"epochs": 0}, "epochs: expected .*, got 0"),
        ({"epochs": True}, "epochs: expected .*, got True"),
        ({"seed": -1}, "seed: expected .*, got -1"),
        ({"kl": "no"}, "kl: unknown name 'no'"),
        ({"kl": 1}, "kl: unknown name"),
        ({"config": None}, "config: expected .*, got None"),
        ({"optimizer": "radm"}, "optimizer: unknown name 'radm'; did you mean radam"),
        ({"estimator": "decoupled-stgs"}, "estimator: unknown name .* did you mean decoupled-st-gs"),
        ({"estimator": None}, "estimator: unknown name None"),
        ({"architecture": "vae"}, "architecture: unknown name 'vae'"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_by_name(other, match):
    with pytest.raises(ValueError, match=match):
        settings(**other)


def test_settings_are_plain_numbers_whatever_they_were_given_as(out):
    own = settings(tf=np.float32(1.5), tb=2, batch_size=np.int64(10), epochs=1.0, seed=np.int32(5))
    assert json.dumps([own.tf, own.tb, own.batch_size, own.epochs, own.seed]) == "[1.5, 2.0, 10, 1, 5]"
    training.train(own, IMAGES, VALIDATION, out)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"latents": 2, "categories": 3}, r"images: expected images that fit .*, got shape \(1, 4, 4\)"),
        (CONFIG | {"image_shape": [1, 3, 4]}, r"images: expected images that fit .*, got shape \(1, 4, 4\)"),
        (CONFIG | {"latents": 0}, "latents: expected .*, got 0"),
        (CONFIG | {"latent": 2}, "config: expected the arguments of categorical-vae, got"),
        (CONFIG | {"hidden": np.array([8])}, "config: expected plain JSON values, got"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(out, config, match):
    with pytest.raises(ValueError, match=match):
        train(out, config=config)
    assert list(out.parent.iterdir()) == []


def test_validation_images_of_another_size_are_refused(out):
    wide = Images(torch.zeros(3, 1, 4, 5, dtype=torch.uint8), "wide", "test", "")
    with pytest.raises(ValueError, match=r"validation: expected images that fit .*, got shape \(1, 4, 5\)"):
        training.train(settings(), IMAGES, wide, out)


def test_looking_whether_images_fit_moves_no_running_statistics():
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 6))
    decoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 16))
    model = gradlab.LatentModel(encoder, decoder, latents=2, categories=3)
    check_fit(model, "images", IMAGES)
    assert model.training
    assert torch.equal(encoder[1].running_mean, torch.zeros(16))


@pytest.mark.parametrize("argument", ["images", "validation"])
def test_no_images_are_refused(out, argument):
    none = Images(torch.zeros(0, 1, 4, 4, dtype=torch.uint8), "none", "train", "")
    given = {"images": IMAGES, "validation": VALIDATION, argument: none}
    with pytest.raises(ValueError, match=f"{argument}: expected at least one image, got none"):
        training.train(settings(), given["images"], given["validation"], out)


@pytest.mark.parametrize("keep_every", [-1, 1.5, "2", True])
def test_keep_every_is_a_whole_number(out, keep_every):
    with pytest.raises(ValueError, match="keep_every: expected a whole number"):
        train(out, keep_every=keep_every)


def test_an_output_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(training.Run, "one_step", lambda run, batch: pytest.fail("it trained"))
    with pytest.raises(IsADirectoryError, match="a folder"):
        train(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError):
        train(tmp_path / "file" / "vae.safetensors")


def test_an_unknown_estimator_name_is_an_unknown_name():
    with pytest.raises(UnknownName):
        settings(estimator="st")


def test_the_kept_state_is_named_after_the_output(out):
    assert training.resume_path(out).name == "vae.resume.safetensors"
    assert training.resume_path(out).parent == out.parent
    assert files.writable(out) == out


# what it will take


def test_the_cost_is_measured_beforehand_without_a_trace():
    before = torch.get_rng_state()
    one = training.step_seconds([settings()], IMAGES, VALIDATION)
    several = training.step_seconds([settings(seed=i) for i in range(5)], IMAGES, VALIDATION)
    assert 0 < one < several < 100 * one
    assert torch.equal(torch.get_rng_state(), before)
    assert training.most_together(settings(), IMAGES, VALIDATION, "cpu") == 1
