"""gradlab bias --wrt encoder: the file, the tables, the figure; and what reads them."""

import json

import numpy as np
import pytest

import gradlab
from gradlab import networks, rounding

CONFIG = {"latents": 2, "categories": 3, "hidden": [8], "image_shape": [1, 28, 28]}
POINT = ("--tf", "1.6", "--tb", "1.3", "--sweep", "none", "--draws", "8", "--images", "3", "--wrt", "encoder")
NAMES = ["all", "1.weight", "1.bias", "3.weight", "3.bias"]


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "tiny.safetensors"
    gradlab.save(networks.build("categorical-vae", CONFIG, seed=0), path)
    return path


def shown_value(ds, name):
    """With the digits that its interval supports."""
    return rounding.three(*(float(ds[f"{name}{end}"].squeeze()) for end in ("", "_low", "_high")))[0]


def test_a_point_has_a_line_for_each_tensor_and_all_figures_of_all_together(run, checkpoint, tmp_path):
    ran = run("bias", checkpoint, *POINT)
    assert ran.code == 0, ran.err
    ds = gradlab.open_results("bias.h5")
    assert list(ds.parameter.values) == NAMES
    assert ds.attrs["wrt"] == "encoder"
    for name in NAMES:
        (line,) = [line.split() for line in ran.out.splitlines() if line.split()[:1] == [name]]
        assert line[1] == shown_value(ds.sel(parameter=name), "relative_bias_debiased")
    (line,) = [line.split() for line in ran.out.splitlines() if line.split()[:1] == ["mean_norm"]]
    assert line[1] == shown_value(ds.sel(parameter="all"), "mean_norm")
    assert "with respect to the encoder" in ran.out
    assert (tmp_path / "bias.png").read_bytes().startswith(b"\x89PNG")
    shown = run("show", "bias.h5")
    assert shown.code == 0
    assert "3.weight" in shown.out
    for kind in ("auto", "parameters", "comparison"):
        assert run("plot", "bias.h5", "--kind", kind, "--out", f"{kind}.png").code == 0


def test_json_has_every_tensor(run, checkpoint):
    found = json.loads(run("bias", checkpoint, *POINT, "--no-plot", "--json").out)
    assert [point["parameter"] for point in found["points"]] == NAMES
    ds = gradlab.open_results("bias.h5")
    for point in found["points"]:
        at = ds.relative_std.sel(parameter=point["parameter"]).squeeze()
        assert point["metrics"]["relative_std"]["value"] == pytest.approx(float(at))
    assert json.loads(run("show", "bias.h5", "--json").out)["points"] == found["points"]


def test_a_cross_shows_the_tensors_at_its_centre_and_all_together_along_it(run, checkpoint):
    ran = run("bias", checkpoint, *POINT, "--sweep", "cross", "--no-plot")
    assert ran.code == 0, ran.err
    assert sum(line.split()[:1] == ["3.weight"] for line in ran.out.splitlines()) == 1
    ds = gradlab.open_results("bias.h5")
    lines = [line.split()[:2] for line in ran.out.splitlines()]
    for tb in ds.tb.values:
        value = shown_value(ds.sel(parameter="all", tf=1.6, tb=tb), "relative_bias_debiased")
        assert [f"{tb:g}", value] in lines
    assert run("plot", "bias.h5").code == 0
    assert run("plot", "bias.h5", "--kind", "trends", "--out", "trends.png").code == 0


def test_several_checkpoints_and_estimators_join(run, checkpoint, tmp_path):
    other = tmp_path / "other.safetensors"
    gradlab.save(networks.build("categorical-vae", CONFIG, seed=1), other)
    ran = run("bias", checkpoint, other, *POINT, "--estimator", "ste", "--estimator", "rloo", "--target", "both")
    assert ran.code == 0, ran.err
    ds = gradlab.open_results("bias.h5")
    assert ds.relative_bias.dims == ("checkpoint", "estimator", "target", "tf", "tb", "parameter")
    assert np.isfinite(ds.relative_bias).all()


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        (("--wrt", "encodr"), 2, "encodr"),
        (
            ("--exact-dtype", "float32"),
            2,
            "expected --exact-dtype float64 beside --wrt encoder, got --exact-dtype float32",
        ),
    ],
)
def test_rubbish_is_one_line(run, checkpoint, arguments, code, fragment):
    ran = run("bias", checkpoint, *POINT, *arguments)
    assert ran.code == code
    assert ran.err.count("\n") == 1
    assert fragment in ran.err
    ran = run("plot", "nosuch.h5", "--kind", "parameters")
    assert ran.code == 1


def test_tensors_are_not_drawn_from_a_file_without(run, checkpoint):
    assert run("bias", checkpoint, *POINT[:-2], "--no-plot").code == 0
    ran = run("plot", "bias.h5", "--kind", "parameters")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "dim parameter" in ran.err
