"""The grid of a sweep, the names of its cells, and who may work on one."""

import dataclasses
import hashlib
import json
import multiprocessing
import os

import numpy as np
import pytest
import torch

from gradlab import errors
from gradlab.sweeps.cells import Cell, grid, identity, tracked
from gradlab.sweeps.claims import claim

from .tiny_sweep import BASE, IMAGES, VALIDATION


def make(tf=(0.5, 1.6), tb=(0.7,), seeds=2, pairs=None, tracking=None, base=BASE):
    return grid(base, IMAGES, VALIDATION, tf, tb, seeds, pairs, tracking)


def cell(tracking=None, **settings):
    return Cell(dataclasses.replace(BASE, **settings), identity(IMAGES), identity(VALIDATION), tracking)


# --- the grid ---


def test_a_grid_has_every_pair_at_every_seed_once():
    found = make(tb=[0.7, 1.3, 3.0], seeds=[4, 1])
    wanted = {(tf, tb, seed) for tf in (0.5, 1.6) for tb in (0.7, 1.3, 3.0) for seed in (4, 1)}
    assert {c.at for c in found.cells} == wanted
    assert len(found.cells) == len(wanted)
    assert [c.settings.seed for c in found.cells] == [4] * 6 + [1] * 6  # all pairs before any is seen twice


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (1, [1.0]),
        (np.float32(0.5), [0.5]),
        (torch.tensor([0.5, 2.0]), [0.5, 2.0]),
        (np.array(0.5), [0.5]),
        ("1.0:0.30:linear", ["1:0.3"]),
        (["1:0.3", 0.5, "0.7"], ["1:0.3", 0.5, 0.7]),
        (iter([3, 1]), [3.0, 1.0]),
    ],
)
def test_temperatures_are_numbers_or_schedules_alone_or_in_sequence(given, wanted):
    assert make(tf=given).tf == wanted


def test_seeds_are_counted_or_listed():
    assert make(seeds=3).seeds == [0, 1, 2]
    assert make(seeds=np.array([7, 2])).seeds == [7, 2]


def test_pairs_leave_out_the_rest():
    found = make(tb=[0.7, 1.3], pairs=[(0.5, 1.3), (1.6, 0.7)], seeds=[5])
    assert [c.at for c in found.cells] == [(0.5, 1.3, 5), (1.6, 0.7, 5)]
    assert (found.tf, found.tb) == ([0.5, 1.6], [0.7, 1.3])


BAD = {
    "no temperature": ({"tf": []}, "tf: expected at least one, got none"),
    "twice the same": ({"tb": [1, 1.0]}, r"tb: expected distinct values, got \[1.0, 1.0\]"),
    "twice the same schedule": ({"tf": ["1:2", "1.0:2"]}, "tf: expected distinct values, got"),
    "negative": ({"tf": [-1]}, "tf: expected .*, got -1"),
    "a range": ({"tb": "1:2:5"}, "tb: expected .*, got '1:2:5'"),
    "no seeds": ({"seeds": 0}, "seeds: expected .*, got 0"),
    "negative seed": ({"seeds": [-1]}, "seeds: expected .*, got -1"),
    "seed twice": ({"seeds": [1, 1]}, "seeds: expected distinct values, got"),
    "pair off the grid": (
        {"pairs": [(0.5, 9.0)]},
        r"pairs: expected pairs \(tf, tb\) of the values of tf and tb, got \(0.5, 9.0\)",
    ),
    "no pairs": ({"pairs": []}, "pairs: expected pairs .*, got none"),
    "no pair": ({"pairs": [0.5]}, r"pairs: expected pairs \(tf, tb\), got \[0.5\]"),
}


@pytest.mark.parametrize(("given", "message"), BAD.values(), ids=BAD)
def test_a_grid_that_is_none_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        make(**given)


def test_tracking_is_checked_and_nothing_tracked_is_nothing():
    assert tracked((), 3, 5, None) is None
    assert tracked("gap", 3, 5, None) == tracked(["gap"], 3, 5, None)
    assert tracked(["gap", "bias", "gap"], 3, 5, 8).kinds == ("bias", "gap")
    assert tracked(["bias"], [20, 1, 5, 1], 5, 8).every == (1, 5, 20)
    with pytest.raises(errors.UnknownName, match="track: unknown name 'bais'; did you mean bias"):
        tracked(["bais"], 3, 5, None)
    for given, argument in (((0, 5, None), "track_every"), ((1, 0, None), "track_images"), ((1, 5, 1), "track_draws")):
        with pytest.raises(ValueError, match=rf"{argument}: expected .*, got"):
            tracked(["bias"], *given)


# --- names ---


def test_a_name_is_the_hash_of_canonical_json():
    one = cell()
    whole = json.loads(one.configuration)
    assert whole["settings"] == json.loads(json.dumps(dataclasses.asdict(one.settings)))
    assert whole["data"] == {"sha256": IMAGES.sha256, "split": "train", "images": 64}
    assert set(whole) == {"format", "gradlab", "settings", "data", "validation", "tracking"}
    assert one.configuration == json.dumps(whole, sort_keys=True, separators=(",", ":"))
    assert one.name == hashlib.sha256(one.configuration.encode()).hexdigest()[:32]


OTHER = [
    *({name: value} for name, value in {"tf": 0.5, "tb": "1:2", "seed": 1, "lr": 0.1, "epochs": 4}.items()),
    {"estimator": "st-gs"},
    {"config": {"latents": 3, "categories": 3}},
    {"kl": True},
]


@pytest.mark.parametrize("other", OTHER, ids=str)
def test_every_setting_enters_the_name(other):
    assert cell(**other).name != cell().name


def test_data_tracking_and_version_enter_the_name():
    plain = cell()
    fewer = dataclasses.replace(plain, data=identity(IMAGES.first(10)))
    elsewhere = dataclasses.replace(plain, validation=plain.validation | {"sha256": "0" * 64})
    other_split = dataclasses.replace(plain, data=plain.data | {"split": "test"})
    newer = dataclasses.replace(plain, version="99")
    following = [cell(tracked(["bias"], every, 5, 8)) for every in (1, 2)]
    cells = [plain, fewer, elsewhere, other_split, newer, *following]
    assert len({one.name for one in cells}) == len(cells)


def test_a_name_depends_on_values_not_on_how_they_are_written():
    plain = cell(tf=1.0, tb="1:0.3")
    assert cell(tf=1, tb="1.0:0.30:linear").name == plain.name
    renamed = dataclasses.replace(IMAGES, name="the same under another name")
    assert dataclasses.replace(plain, data=identity(renamed)).name == plain.name


@pytest.mark.deep
def test_a_name_is_the_same_in_every_process():
    """Workers and killed sweeps find cells by their names, too."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_name_of, (cell(),)) == cell().name


def _name_of(one):
    return one.name


# --- claims ---


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "cell.lock"


def test_a_claim_is_had_once_and_leaves_nothing(lock):
    held = claim(lock)
    assert held is not None
    assert claim(lock) is None
    held.release()
    with claim(lock):
        assert claim(lock) is None
        assert lock.exists()
    assert not lock.exists()


def test_what_a_dead_holder_left_can_be_claimed(lock):
    lock.touch()
    with claim(lock):
        assert claim(lock) is None


def test_a_lock_file_removed_between_opening_and_locking_is_no_claim(lock, monkeypatch):
    """The holder removes the file while somebody else has it open: that lock is on a file nobody can see."""
    held = claim(lock)
    real = os.open

    def release_after_opening(path, *flags):
        handle = real(path, *flags)
        monkeypatch.setattr(os, "open", real)
        held.release()
        return handle

    monkeypatch.setattr(os, "open", release_after_opening)
    with claim(lock):
        assert claim(lock) is None


def test_a_claim_where_nothing_can_be_written_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"nowhere.cell\.lock"):
        claim(tmp_path / "nowhere" / "cell.lock")


def test_file_systems_without_locks_are_named(lock, monkeypatch):
    def no_locks(*given):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(OSError, match=r"this folder allows no file locks .*not supported.*cell\.lock"):
        claim(lock)
