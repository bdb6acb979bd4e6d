"""`bias` and `gap` in parts: the figures of one call, kills that lose a part at most, parts that are not mixed up."""

import dataclasses
import functools
import importlib
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import gradlab
from gradlab import checkpoints, errors, methods, parts, results
from gradlab.cautions import cautions
from gradlab.estimators import registry
from gradlab.parts import code
from gradlab.parts.folder import Folder
from gradlab.sweeps import queue

from .command_line import POINT, refused, tiny

TF, TB = [0.3, 0.9, 1.6], [0.5, 1.3]
COMPUTE = methods.Compute()
NOTED = ("date", "command_line")  # attributes that no two runs share


@pytest.fixture
def here(monkeypatch):
    """Worker processes are this one: a process of its own imports torch for seconds."""
    counts = []

    def worked(job, count, after):
        counts.append(count)
        queue.work(job.in_worker(0), after)

    monkeypatch.setattr("gradlab.parts.run.work_in_processes", worked)
    return counts


def sources(*paths):
    loads = [functools.partial(checkpoints.load_described, path) for path in paths]
    return [parts.Source(load, load()[1], str(path)) for load, path in zip(loads, paths, strict=True)]


def campaign(tmp_path, analysis, count=2, kind="bias", compute=COMPUTE, **options):
    """Of tiny checkpoints a, b, ..."""
    paths = [tmp_path / f"{name}.safetensors" for name in "abcd"[:count]]
    for seed, path in enumerate(paths):
        if not path.exists():
            tiny(path, seed=seed)
    models = {i: gradlab.load(path) for i, path in enumerate(paths)}
    x = gradlab.datasets.load("mnist-sample").first(3).floats()
    given = {"tf": TF, "tb": TB, "out": tmp_path / "bias.h5", "workers": 2} | options
    return parts.Campaign(kind, analysis, sources(*paths), models, x, compute=compute, **given), models, x


def assert_same(found, expected):
    """Dims, types, attributes; numbers to the rounding of sums over several tf at once, and of one."""
    assert list(found.data_vars) == list(expected.data_vars)
    assert found.coords.keys() == expected.coords.keys()
    for name, variable in expected.variables.items():
        assert (found[name].dims, found[name].dtype) == (variable.dims, variable.dtype)
        if variable.dtype.kind != "f":
            np.testing.assert_array_equal(found[name].values, variable.values)
        else:
            scale = np.nanmax(np.abs(np.nan_to_num(variable.values, posinf=0, neginf=0)), initial=0)
            np.testing.assert_allclose(found[name].values, variable.values, rtol=1e-11, atol=1e-13 * scale)
    for name in expected.attrs:
        if name not in NOTED:
            np.testing.assert_array_equal(found.attrs[name], expected.attrs[name])
    assert found.attrs.keys() == expected.attrs.keys()


CASES = {
    "cross": {"draws": 16, "cross": (0.9, 1.3)},
    "sampled reference": {"draws": 64, "reference": methods.Sampled("auto", precision=0.9, max_draws=256)},
    "two estimators, both targets": {"estimator": ["reinmax", "rloo:n=2"], "target": "both", "draws": 16},
    "parameters": {"draws": 16, "wrt": "encoder"},
    "exact moments": {"moments": "exact"},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "name", [*list(CASES)[:2], *(pytest.param(name, marks=pytest.mark.deep) for name in list(CASES)[2:])]
)
def test_parts_have_the_figures_of_one_call(tmp_path, here, name):
    """Each tf is measured by itself, and a reference is chosen at all of them together."""
    given = dict(CASES[name])
    analysis = functools.partial(gradlab.bias, **{k: v for k, v in given.items() if k != "cross"})
    whole, models, x = campaign(tmp_path, analysis, cross=given.get("cross"))
    whole.measure()
    found = whole.found()
    for i, model in models.items():
        assert_same(found[i], gradlab.bias(model, x, TF, TB, compute=COMPUTE, **given))
    assert here[-1] == 2
    whole.remove()
    assert not whole.folder.path.exists()


def test_parts_of_a_gap_are_the_same_bits(tmp_path, here):
    whole, models, x = campaign(tmp_path, functools.partial(gradlab.gap, draws=8), kind="gap")
    whole.measure()
    for i, ds in whole.found().items():
        expected = gradlab.gap(models[i], x, TF, TB, draws=8)
        assert ds.drop_attrs().identical(expected.drop_attrs())


def test_warnings_of_parts_are_given_once(tmp_path, here):
    analysis = functools.partial(gradlab.bias, draws=60, reference="rloo")
    whole, *_ = campaign(tmp_path, analysis, count=1)
    whole.measure()
    with pytest.warns(UserWarning, match="expected whole batches beside a sampled reference, got 60") as warned:
        whole.found()
    assert len([w for w in warned if "whole batches" in str(w.message)]) == 1


# --- what is measured is kept, and not mixed up ---


def kept(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith(".h5"))


def counted(calls, model, x, tf, tb, **options):
    calls.append(tf)
    return gradlab.bias(model, x, tf, tb, **options)


@pytest.mark.parametrize("kills", [1, pytest.param(12, marks=pytest.mark.deep)])
def test_a_killed_campaign_goes_on(tmp_path, kills):
    """SIGKILL at some part; what is left behind is cleaned up, and the figures are the same bits."""
    undisturbed, *_ = campaign(tmp_path, functools.partial(gradlab.bias, draws=16), count=4, workers=1)
    undisturbed.measure()
    expected = undisturbed.found()
    undisturbed.remove()
    random = np.random.default_rng(0)
    for _ in range(kills):
        until = int(random.integers(1, 4))
        if not (child := os.fork()):
            os.close(2)
            campaign(tmp_path, functools.partial(gradlab.bias, draws=16), count=4, workers=1)[0].measure()
            os._exit(0)
        folder = Folder.beside(tmp_path / "bias.h5").path
        began = time.monotonic()
        while time.monotonic() - began < 60 and not (folder.is_dir() and len(kept(folder)) >= until):
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        there = len(kept(folder))
        calls = []
        again, *_ = campaign(tmp_path, functools.partial(counted, calls, draws=16), count=4, workers=1)
        with pytest.warns(UserWarning, match=rf"{there} of 4 parts are measured already, in .*bias\.h5\.parts"):
            again.measure()
        assert len(calls) == 4 - there
        for i, ds in again.found().items():
            assert ds.drop_attrs().identical(expected[i].drop_attrs())
        again.remove()
        assert not folder.exists()


def test_parts_of_another_command_stay(tmp_path):
    """An interrupted measurement is not lost to another one into the same file."""
    long, *_ = campaign(tmp_path, functools.partial(gradlab.bias, draws=16), workers=1)
    long.measure()
    other, *_ = campaign(tmp_path, functools.partial(gradlab.bias, draws=8), count=1, workers=1)
    other.measure()
    with pytest.warns(UserWarning, match="2 parts of another command stay"):
        other.remove()
    assert len(kept(long.folder.path)) == 2
    long.remove()
    assert not long.folder.path.exists()


def test_changed_code_of_the_user_is_another_part(tmp_path, monkeypatch):
    """Of a model: a helper in a sibling package too. Of a registered estimator: its package."""
    for folder in ("zoo", "zoo/models"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    helper = tmp_path / "zoo" / "helper.py"
    helper.write_text("SCALE = 1.0")
    (tmp_path / "zoo" / "models" / "vae.py").write_text("from zoo.helper import SCALE")
    plug = tmp_path / "plugged_in.py"
    plug.write_text("FACTOR = 1.0")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("zoo.models.vae")
    importlib.import_module("plugged_in")
    before = code.of_module("zoo.models.vae:model")
    assert code.of_module("zoo.models.vae:model") == before
    helper.write_text("SCALE = 5.0")
    assert code.of_module("zoo.models.vae:model") != before

    kind = type("Planted", (gradlab.estimators.Estimator,), {"__module__": "plugged_in", "name": "planted"})
    monkeypatch.setitem(registry._CLASSES, "planted", kind)
    before = code.of_estimators()["plugged_in"]
    assert code.of_estimators()["plugged_in"] == before
    plug.write_text("FACTOR = 3.0")
    assert code.of_estimators()["plugged_in"] != before
    asked = functools.partial(gradlab.bias, draws=8)
    now = campaign(tmp_path, asked, count=1)[0]._whole(0).name
    plug.write_text("FACTOR = 1.0")
    assert campaign(tmp_path, asked, count=1)[0]._whole(0).name != now


def test_only_parts_of_the_same_question_are_reused(tmp_path, monkeypatch):
    """Arguments, the model's weights, the observations, code of the user: anything else has parts of other names."""

    def named(images=None, code="", **more):
        given = {"draws": 16} | {k: v for k, v in more.items() if k in ("draws", "seed", "estimator", "reference")}
        other = {k: v for k, v in more.items() if k not in given}
        whole, *_ = campaign(tmp_path, functools.partial(gradlab.bias, **given), **other)
        whole.x = whole.x if images is None else images
        whole.sources = [dataclasses.replace(source, code=code) for source in whole.sources]
        monkeypatch.setattr(whole, "_work", lambda *given: None)
        whole.measure()
        return [part.name for of in whole.parts.values() for part in of]

    before = named()
    assert len(set(before)) == 6
    assert named() == before
    x = gradlab.datasets.load("mnist-sample").first(3).floats()
    for changed in (
        {"draws": 17},
        {"seed": 1},
        {"estimator": "reinmax"},
        {"reference": methods.Enumerated(dtype="float32")},
        {"tb": [0.5]},
        {"compute": methods.Compute(dtype=torch.float64)},
        {"device": "cuda"},
        {"images": x + 1e-7},
        {"images": x.double()},
        {"images": x.reshape(3, 28, 28)},
        {"code": "changed"},
        {"workers": 1},
    ):
        assert set(before).isdisjoint(named(**changed)), changed
    shown = methods.Compute(progress=True)
    assert named(compute=shown, tf=TF[:1]) == [before[0], before[3]]
    tiny(tmp_path / "b.safetensors", seed=7)
    assert [name in before for name in named()] == [True] * 3 + [False] * 3


def test_parts_of_another_device_are_not_reused(tmp_path, monkeypatch):
    """A folder that machines with and without a GPU share; the results name all devices."""

    def named(gpu, device="auto", **more):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        whole, *_ = campaign(tmp_path, functools.partial(gradlab.bias, draws=16), count=1, device=device, **more)
        monkeypatch.setattr(whole, "_work", lambda *given: None)
        whole.measure()
        return {part.name for part in whole.parts[0]}

    assert named(False) == named(True, "cpu") == named(False, "cpu")
    assert named(True) == named(True, "cuda:1")
    cluster = {"workers": 1, "scheduler": "tcp://a:1"}
    assert named(True, **cluster) == named(False, **cluster)  # its devices are not known here
    assert not named(True) & named(False) | named(True, **cluster) & (named(True) | named(False))
    one = gradlab.bias(gradlab.load(tmp_path / "a.safetensors"), campaign(tmp_path, None)[2], 1.0, draws=8)
    devices = [one.assign_attrs(checkpoint=name, device=name) for name in ("cpu", "cuda:0", "cpu")]
    assert results.join_checkpoints(devices).device.values.tolist() == ["cpu", "cuda:0", "cpu"]


def test_a_damaged_part_is_measured_again(tmp_path):
    calls = []
    whole, *_ = campaign(tmp_path, functools.partial(counted, calls, draws=16), workers=1)
    whole.measure()
    expected = whole.found()
    path = min(whole.folder.path.glob("*.h5"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"damaged; this part is measured again|1 of 2 parts"):
        whole.measure()
    assert len(calls) == 3
    for i, ds in whole.found().items():
        assert ds.drop_attrs().identical(expected[i].drop_attrs())


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe"])
def test_what_has_the_name_of_a_part_and_is_no_file_is_refused_before_anything_is_measured(tmp_path, kind):
    calls = []
    whole, *_ = campaign(tmp_path, functools.partial(counted, calls, draws=16), workers=1)
    whole.folder.make()
    path = whole.folder.file(whole._whole(1))
    mine = tmp_path / "mine.h5"
    if kind == "link":
        mine.write_text("mine")
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}.get(kind, lambda: path.symlink_to(mine))()
    with pytest.raises(OSError, match=rf"{path.name}: expected no file or a part of gradlab, got a .*; move it away"):
        whole.measure()
    assert calls == []
    assert mine.exists() == (kind == "link")


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_has_the_name_of_the_folder_of_parts_is_named(tmp_path, make):
    whole, *_ = campaign(tmp_path, functools.partial(gradlab.bias, draws=16), count=1)
    make(whole.folder.path)
    with pytest.raises(OSError, match=r"bias\.h5\.parts: expected no file or a folder of parts"), whole.held():
        pass


def test_a_checkpoint_that_changes_meanwhile_is_no_other_number(tmp_path, here):
    """Workers load it later."""
    whole, *_ = campaign(tmp_path, functools.partial(gradlab.bias, draws=16))
    tiny(tmp_path / "b.safetensors", seed=7)
    whole.measure()
    assert list(whole.found()) == [0]
    assert "b.safetensors: expected the weights of the beginning, got others" in str(whole.failed[1])


def test_two_commands_do_not_write_one_file(tmp_path):
    whole, *_ = campaign(tmp_path, functools.partial(gradlab.bias, draws=16), count=1)
    other, *_ = campaign(tmp_path, functools.partial(gradlab.bias, draws=17), count=1)
    with whole.held(), pytest.raises(OSError, match=r"bias\.h5: another command measures into this"), other.held():
        pass
    assert not whole.folder.path.exists()


# --- the command line ---


def test_the_command_goes_on_and_cleans_up(run, tmp_path, monkeypatch, here):
    for seed, name in enumerate("ab"):
        tiny(f"{name}.safetensors", seed=seed)
    command = ["bias", "a.safetensors", "b.safetensors", "--tf", "0.3,1", "--tb", 1, *POINT]
    assert run(*command).code == 0
    expected = gradlab.open_results("bias.h5")
    real, calls = gradlab.bias, []

    def interrupted(*given, **options):
        calls.append(given)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*given, **options)

    whole = (tmp_path / "bias.h5").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(gradlab, "bias", interrupted)
        stopped = run(*command, "--workers", 2)
        assert (tmp_path / "bias.h5").read_bytes() == whole
        (tmp_path / "bias.h5").unlink()
        for _ in range(2):  # the second time onto a part
            calls[:] = [0, 0, 0]
            again = run(*command, "--workers", 2)
            assert gradlab.open_results("bias.h5").attrs["incomplete"] == "1 of 2 checkpoints"
    assert stopped.code == again.code == 130
    first = "1 of 2 checkpoints were measured"
    assert f"{first}; bias.h5 is of an earlier measurement and stays as it is" in stopped.err
    assert f"{first}; they are in bias.h5\n" in again.err
    kept_in = f"3 of 4 parts are in {tmp_path / 'bias.h5.parts'}"
    for one in (stopped, again):
        assert one.err.splitlines()[-1] == f"gradlab: interrupted; {kept_in}, and the same command continues"
    assert json.loads(run("show", "bias.h5", "--json").out)["cautions"] == ["Incomplete: 1 of 2 checkpoints."]
    assert len(kept("bias.h5.parts")) == 3
    done = run(*command, "--workers", 2)
    assert done.code == 0, done.err
    assert "3 of 4 parts are measured already" in done.err
    assert sorted(os.listdir()) == ["a.safetensors", "b.safetensors", "bias.h5"]
    assert_same(gradlab.open_results("bias.h5"), expected)
    refused(run(*command, "--workers", 2, "--scheduler", "tcp://a:1"), 2, "--workers: expected none with --scheduler")


def test_a_checkpoint_that_fails_costs_no_other(run, tmp_path, monkeypatch):
    """One that is damaged, and one whose measurement fails; the same command measures only these again."""
    for seed, name in enumerate("abc"):
        tiny(f"{name}.safetensors", seed=seed)
    whole = (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(whole[:-5])
    command = ["bias", "a.safetensors", "b.safetensors", "c.safetensors", *POINT]
    failed = run(*command)
    assert failed.code == 1
    (line,) = failed.err.splitlines()
    assert line.startswith("gradlab: 1 of 3 checkpoints failed, the first b.safetensors: expected a complete safetens")
    folder = tmp_path / "bias.h5.parts"
    only_that = "the same command measures only what failed"
    assert line.endswith(f"; the others are in bias.h5 and, in parts, in {folder}; {only_that}")
    assert "wrote bias.h5" in failed.out
    part = gradlab.open_results("bias.h5")
    assert part.checkpoint.values.tolist() == ["a.safetensors", "c.safetensors"]
    assert cautions(part)[0] == "Incomplete: 2 of 3 checkpoints."
    (tmp_path / "b.safetensors").write_bytes(whole)
    real = gradlab.bias

    def fails(model, *given, **options):
        if model is failing[0]:
            raise errors.BadFile("losses: expected finite values, got nan")
        return real(model, *given, **options)

    failing, load = [], checkpoints.load_described

    def noted(path, *given):
        found = load(path, *given)
        if path == "b.safetensors":
            failing[:] = [found[0]]
        return found

    with monkeypatch.context() as patch:
        patch.setattr(gradlab, "bias", fails)
        patch.setattr(checkpoints, "load_described", noted)
        failed = run(*command)
    assert failed.code == 1
    assert "1 of 3 checkpoints failed, the first b.safetensors: losses: expected finite values, got nan" in failed.err
    done = run(*command)
    assert done.code == 0
    assert "2 of 3 parts are measured already" in done.err
    done = gradlab.open_results("bias.h5")
    assert done.sizes["checkpoint"] == 3
    assert "incomplete" not in done.attrs
    assert not os.path.exists("bias.h5.parts")
    before = (tmp_path / "bias.h5").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(whole[:-5])
    failed = run(*command)
    stays = "as bias.h5 is of an earlier measurement and stays as it is"
    assert failed.err.endswith(f"; the others are in {folder}, {stays}; {only_that}\n")
    assert "relative_bias" in failed.out
    assert "bias.h5" not in failed.out
    assert (tmp_path / "bias.h5").read_bytes() == before


@pytest.mark.deep
def test_worker_processes_share_the_parts(tmp_path):
    """Processes of their own, one of which may end before the others; a model of the user too.

    In float64: sums in float32 depend on the number of threads, which workers share.
    """
    import subprocess
    import sys

    (tmp_path / "mine.py").write_text(
        "import torch, gradlab\n"
        "def model():\n"
        "    torch.manual_seed(0)\n"
        "    print('made')\n"
        "    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 6))\n"
        "    decoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 784))\n"
        "    return gradlab.LatentModel(encoder, decoder, latents=2, categories=3)\n"
    )
    command = [sys.executable, "-m", "gradlab", "bias", "--model", "mine:model", "--tf", "0.3,1", "--tb", "1", *POINT]
    for more, out in ((["--workers", "2"], "two.h5"), ([], "one.h5")):
        done = subprocess.run(
            [*command[:-1], out, "--dtype", "float64", *more], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "made" not in done.stdout
    assert_same(gradlab.open_results(tmp_path / "two.h5"), gradlab.open_results(tmp_path / "one.h5"))
    assert not (tmp_path / "two.h5.parts").exists()
