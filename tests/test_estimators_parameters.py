"""Parameters of estimators: ranges, defaults and what follows from them."""

import dataclasses

import pytest
import torch

import gradlab
from gradlab import estimators
from gradlab.estimators import parameters
from gradlab.latents import BINARY, CATEGORICAL

from .catalogue import ALL, NAMES


def test_backward_temperature_defaults_to_the_forward_one():
    assert estimators.get("st-gs", tf=0.7).tb == 0.7
    assert estimators.get("st-gs", tb=0.7).tf == 1.0
    assert estimators.get("st-gs").tb == 1.0


RANGES = {
    ("reinforce", "baseline"): ["mean", 1],
    ("reinforce", "decay"): [1.0, -0.1, float("nan"), "0.9", True],
    ("rloo", "n"): [1, 0, 2.5, "2", True],
    ("arms", "n"): [1, 2.5],
    ("double-cv", "n"): [1, 2.5],
    ("double-cv", "alpha"): [float("inf"), float("nan"), "1"],
    ("gumbel-rao", "k"): [0, 1.5, None],
    ("gst", "mode"): ["prob", None],
    ("gst", "gap"): [-0.1, float("inf"), "wide"],
    ("rebar", "eta"): [float("inf"), float("nan"), "1"],
    ("rebar", "lam"): [0.0, -1.0, float("nan")],
    ("st-gs", "convention"): ["papr"],
    ("ste-identity", "clip"): [0, -1.0, float("inf"), float("nan"), True, "1x", None],
    ("mve", "tau"): [-0.1, float("inf"), float("nan"), "1"],
    ("reinmax-rao", "k"): [0, 1.5, None],
    ("reinmax-cv", "k"): [0, 1.5, None],
    ("reinmax-cv", "eta"): [float("inf"), float("nan"), "1"],
}


@pytest.mark.parametrize(("name", "parameter"), RANGES)
def test_parameters_out_of_range_are_refused_by_name(name, parameter):
    for bad in RANGES[name, parameter]:
        with pytest.raises(ValueError, match=f"^{parameter}: "):
            estimators.get(name, **{parameter: bad})


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_says_what_it_takes_and_refuses_what_is_none(name):
    cls = estimators.find(name)
    assert {f.name for f in dataclasses.fields(cls)} - {"tf", "tb"} == {p for n, p in RANGES if n == name}
    for field in dataclasses.fields(cls):
        assert parameters.allowed(field).words
        with pytest.raises(ValueError, match=f"^{field.name}: "):
            estimators.get(name, **{field.name: object()})


def test_whole_numbers_and_reals_come_out_as_such():
    assert isinstance(estimators.get("rloo", n=3.0).n, int)
    assert isinstance(estimators.get("rebar", eta=1).eta, float)
    assert estimators.get("rloo", n=3) == estimators.get("rloo", n=3.0)


def test_describe_tells_all_as_plain_values():
    import json

    rows = {row["name"]: row for row in estimators.describe()}
    assert sorted(rows) == NAMES
    json.dumps(rows)
    for name, row in rows.items():
        cls = estimators.find(name)
        assert set(row["ranges"]) == set(row["parameters"]) == {f.name for f in dataclasses.fields(cls)}
        assert all(row["ranges"].values())
        assert row["code_only"] is estimators.get(name).code_only
        assert row["formula"]
        assert row["reference"]
    assert rows["gst"]["parameters"] == {"tf": 1.0, "tb": "tf", "mode": "fixed", "gap": 1.0}
    assert rows["gst"]["ranges"]["gap"] == "finite, at least 0"
    assert rows["reinforce"]["ranges"]["decay"] == "at least 0, below 1"
    assert rows["exact"]["evaluations"] == "all configurations"
    assert (rows["rebar"]["evaluations"], rows["rebar"]["noise_arrays"]) == (3, 2)
    assert {name for name, row in rows.items() if row["unbiased"]} == {
        "reinforce", "rloo", "rebar", "disarm", "arms", "exact", "leg", "double-cv"
    }  # fmt: skip
    assert {name for name, row in rows.items() if row["latents"] == ["binary"]} == {"disarm", "arms"}
    assert rows["leg"]["evaluations"] == "by size"


def test_code_only_follows_the_baseline():
    assert estimators.get("reinforce").code_only
    assert not estimators.get("reinforce", baseline="running-mean").code_only
    code_only = {name for name in NAMES if estimators.get(name).code_only}
    assert code_only == {"reinforce", "ste", "ste-identity", "reinmax", "zgr", "gst", "mve"}


def test_what_needs_no_noise_says_so():
    assert {name for name in NAMES if estimators.get(name).noise_free} == {"exact", "ste-argmax"}
    assert {name for name in NAMES if estimators.get(name).all_configurations} == {"exact"}


def test_labels_name_what_is_not_default():
    assert estimators.get("rloo", n=4, tf=0.5).label == "rloo(n=4)"
    assert estimators.get("reinforce", baseline="running-mean").label == "reinforce(baseline=running-mean)"
    assert len({estimators.parse(text).label for text in ALL}) == len(ALL)


def test_points_are_shared_only_by_those_that_evaluate_the_same():
    by_key = {}
    for text in ALL:
        by_key.setdefault(estimators.parse(text).at(0.7, 0.7).points_key, []).append(text)
    shared = next(texts for texts in by_key.values() if "ste" in texts)
    assert {"reinforce", "reinforce:baseline=running-mean", "reinmax", "zgr", "gst", "gumbel-rao", "st-gs"} <= set(
        shared
    )
    assert all(len(texts) == 1 for texts in by_key.values() if texts is not shared)


def test_exact_refuses_large_spaces_with_their_size():
    exact = estimators.get("exact")
    with pytest.raises(
        gradlab.errors.SpaceTooLarge,
        match=r"at most 16,384 configurations for exact, got 2\^15 = 3.277e\+04; use rloo",
    ):
        exact.points(BINARY, torch.zeros(1, 15), torch.zeros(1, 2, 1, 15))
    assert exact.evaluations_at(BINARY, torch.zeros(1, 14)) == 2**14
    assert exact.evaluations_at(CATEGORICAL, torch.zeros(9, 4, 8)) == 8**4
    assert estimators.get("rloo", n=5).evaluations_at(CATEGORICAL, torch.zeros(9, 40, 8)) == 5


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), "warm", None, True])
@pytest.mark.parametrize("name", NAMES)
def test_bad_temperatures_are_refused(name, bad):
    with pytest.raises(ValueError, match="tf: expected a finite number above 0, got"):
        estimators.get(name, tf=bad)
