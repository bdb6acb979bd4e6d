"""`gradlab gap`, `gradlab train binary-ae`, `gradlab plot --reconstructions` and `gradlab reproduce figure5`."""

import json

import numpy as np
import pytest
import torch
from gradlab.analyses import figure5_gradient_gap

import gradlab
from gradlab import datasets, networks

from .command_line import tiny

FEW = ("--images", 3, "--draws", 4, "--no-plot")


def small(path, seed=0, **config):
    model = networks.build("binary-autoencoder", {"width": 2, "depth": 0} | config, seed=seed)
    gradlab.save(model, path)
    return model


@pytest.fixture
def checkpoint(tmp_path):
    small(tmp_path / "ae.safetensors")
    return tmp_path / "ae.safetensors"


def test_measures_a_checkpoint_as_the_library_does(run, checkpoint):
    done = run("gap", checkpoint, "--tf", "0.5,1", "--tb", "0.5:2:3", *FEW)
    assert done.code == 0, done.err
    assert "2,048 binary units" in done.out
    assert "wrote gap.h5" in done.out
    ds = gradlab.open_results("gap.h5")
    x = datasets.load("mnist-sample").first(3).floats()
    wanted = gradlab.gap(gradlab.load(checkpoint), x, [0.5, 1.0], [0.5, 1.25, 2.0], draws=4)
    np.testing.assert_allclose(ds.gap, wanted.gap, rtol=1e-6)
    assert ds.attrs["checkpoint"] == str(checkpoint)
    assert ds.attrs["data"] == "mnist-sample, test split, first 3"


def test_json_has_every_point_with_intervals(run, checkpoint):
    done = run("gap", checkpoint, "--tf", "0.5,1", "--tb", 2, "--json", *FEW)
    found = json.loads(done.out)
    assert found["attributes"]["analysis"] == "gap"
    assert len(found["points"]) == 2 * 2
    point = found["points"][0]
    assert (point["definition"], point["tf"], point["tb"]) == ("autodiff", 0.5, 2.0)
    for name in ("gap", "squared_gap", "relative_gap", "relative_gap_pooled", "cosine"):
        assert set(point["metrics"][name]) == {"value", "low", "high", "population_low", "population_high"}
    assert point["metrics"]["gap"]["low"] <= point["metrics"]["gap"]["value"]


def test_works_on_a_categorical_vae_and_draws_the_figure(run, tmp_path):
    tiny(tmp_path / "vae.safetensors")
    done = run("gap", "vae.safetensors", "--tf", "0.5,1", "--tb", "1,2", "--images", 3, "--draws", 4)
    assert done.code == 0, done.err
    assert (tmp_path / "gap.png").stat().st_size > 10_000
    assert "autodiff" in done.out
    assert "relative_gap_pooled" in done.out


def test_one_point_is_printed_in_full_and_show_prints_the_same(run, checkpoint):
    done = run("gap", checkpoint, "--tf", 1, "--tb", 2, *FEW)
    for name in ("gap", "squared_gap", "relative_gap", "cosine", "discrete_norm", "relaxed_norm"):
        assert name in done.out
    again = run("show", "gap.h5")
    assert again.code == 0
    assert done.out.split("wrote")[0].strip() in again.out
    assert "how it was made" in again.out


def test_a_grid_is_printed_as_a_table_a_figure(run, checkpoint):
    done = run("gap", checkpoint, "--tf", "0.3:3.0:4", "--tb", "0.3:3.0:9", *FEW)
    assert "gap, autodiff, in units of 1e" in done.out
    assert "95 % intervals at most" in done.out
    assert "cosine, shared-backward" in done.out
    assert len(done.out.splitlines()) < 6 * 16
    ds = gradlab.open_results("gap.h5")
    assert f"{float(ds.cosine[0, 0, 0]):.3g}" in done.out
    power = np.floor(np.log10(float(ds.gap.sel(definition="autodiff").max())))
    assert f"{float(ds.gap[0, 0, 0]) / 10**power:.3g}" in done.out


def test_several_checkpoints_go_along_a_dim(run, tmp_path):
    paths = [tmp_path / f"ae-{seed}.safetensors" for seed in (1, 2)]
    for seed, path in enumerate(paths):
        small(path, seed=seed)
    done = run("gap", *paths, "--tf", 1, "--tb", 2, "--images", 3, "--draws", 4)
    assert done.code == 0, done.err
    ds = gradlab.open_results("gap.h5")
    assert list(ds.checkpoint.values) == [str(p) for p in paths]
    assert ds.gap.dims == ("checkpoint", "definition", "tf", "tb")
    assert run("plot", "gap.h5", "--checkpoint", paths[0], "--out", "first.png").code == 0
    alone = run("gap", paths[1], "--tf", 1, "--tb", 2, *FEW, "--json")
    value = json.loads(alone.out)["points"][0]["metrics"]["gap"]["value"]
    assert float(ds.gap[1, 0, 0, 0]) == pytest.approx(value, rel=1e-6)


def test_what_was_measured_before_an_interruption_is_kept(run, tmp_path, monkeypatch):
    from gradlab.fidelity import gap_analysis

    paths = [tmp_path / f"ae-{seed}.safetensors" for seed in (1, 2, 3)]
    for seed, path in enumerate(paths):
        small(path, seed=seed)
    calls = []
    plain = gap_analysis.gap

    def interrupted(*arguments, **named):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*arguments, **named)

    monkeypatch.setattr(gap_analysis, "gap", interrupted)
    done = run("gap", *paths, "--tf", 1, "--tb", 2, *FEW)
    assert done.code == 130
    assert "2 of 3 checkpoints were measured; they are in gap.h5" in done.err
    assert gradlab.open_results("gap.h5").sizes["checkpoint"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["gap", "--tf", "0"], 2, "SPEC"),
        (["gap", "--tb", "a"], 2, "SPEC"),
        (["gap", "none.safetensors"], 1, "no such checkpoint file"),
        (["gap", "ae.safetensors", "ae.safetensors"], 2, "expected each once"),
        (["gap", "ae.safetensors", "--draws", "1"], 2, "--draws"),
        (
            ["gap", "ae.safetensors", "--images", "5000"],
            1,
            "images: expected at most 1000, the test split of mnist-sample, got 5000",
        ),
        (["gap", "ae.safetensors", "--out", "gap.png"], 2, "expected a results file, .h5"),
        (["gap", "ae.safetensors", "--data", "nothing"], 2, "--data: unknown name"),
        (["gap", "ae.safetensors", "--device", "nowhere"], 1, "device: expected a usable device, got 'nowhere'"),
        (["bias", "ae.safetensors", "--reference", "exact"], 1, "2^2048 configurations"),
        (["train", "binary-ae", "--data", "mnist", "--data-dir", "."], 1, "gradlab data fetch mnist"),
        (["train", "binary-ae", "--preset", "huge"], 2, "--preset"),
        (["train", "binary-ae", "--width", "0"], 2, "--width"),
        (
            ["plot", "ae.safetensors"],
            1,
            "got a safetensors file (checkpoints) (gradlab bias, gap and plot --recon",
        ),
        (["plot", "ae.safetensors", "--reconstructions", "--images", "0"], 2, "--images"),
    ],
)
def test_bad_input_is_one_line(run, checkpoint, arguments, code, said):
    done = run(*arguments)
    assert done.code == code
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert done.out == ""


def test_train_binary_ae_then_gap_and_reconstructions(run, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    pixels = torch.randint(0, 256, (40, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name in datasets.IDX_FILES.values():
        datasets.write_idx(folder / f"{name}.gz", pixels)
    sizes = ("--width", 2, "--depth", 0)
    done = run("train", "binary-ae", "--data", "mine", *sizes, "--epochs", 2, "--out", "ae.safetensors")
    assert done.code == 0, done.err
    assert "2 epochs" in done.out
    assert "in squared error" in done.out
    assert "KL" not in done.out
    settings = gradlab.load("ae.safetensors").provenance["settings"]
    wanted = {"optimizer": "adam", "lr": 3e-4, "batch_size": 64, "kl": "none", "tf": 0.3, "tb": 3.0}
    assert wanted.items() <= settings.items()
    assert settings["config"] == {"width": 2, "depth": 0, "image_shape": [1, 28, 28]}
    done = run("plot", "ae.safetensors", "--reconstructions", "--images", 4)
    assert done.code == 0, done.err
    assert (tmp_path / "ae.safetensors.png").stat().st_size > 2000
    done = run("gap", "ae.safetensors", "--tf", 1, "--tb", 1, *FEW)
    assert gradlab.open_results("gap.h5").attrs["trained_epochs"] == 2


def test_reproduce_figure5(run, checkpoint, monkeypatch):
    monkeypatch.setattr(figure5_gradient_gap, "TF", [0.3, 1.5, 3.0])
    monkeypatch.setattr(figure5_gradient_gap, "TB", [0.3, 3.0])
    done = run("reproduce", "figure5", "--checkpoint", checkpoint, "--images", 3, "--draws", 4, "--out", "made")
    assert done.code == 0, done.err
    assert "(a) the gap falls as tb rises" in done.out
    assert "shared-backward" in done.out
    assert gradlab.open_results("made/figure5-quick.h5").gap.shape == (2, 3, 2)
    verdicts = json.loads(
        run("reproduce", "figure5", "--checkpoint", checkpoint, "--images", 3, "--draws", 4, "--json").out
    )["verdicts"]
    assert len(verdicts) == 18
    assert {"claim", "definition", "tf", "metric", "verdict", "change"} <= set(verdicts[0])
