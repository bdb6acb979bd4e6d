"""What else may lie in the folder of a sweep: damaged files, foreign ones, and folders that cannot be written."""

import os
import shutil

import pytest

from gradlab import checkpoints, training

from .tiny_sweep import ONE, ONE_POINT, Death, assert_same, cells, dies_at, leftovers, sweep


@pytest.mark.parametrize("length", [0, 100, 6000])
def test_a_cell_file_cut_short_is_named_set_aside_and_trained_anew(undisturbed, finished, trainings, length):
    cell = cells()[2]
    path = finished / f"{cell.name}.h5"
    path.write_bytes(path.read_bytes()[:length])
    named = rf"{cell.name}.h5: expected a (complete HDF5|results file, got an empty).*kept as {cell.name}.h5.damaged"
    with pytest.warns(UserWarning, match=named):
        ds = sweep(finished)
    assert_same(ds, undisturbed[1])
    assert trainings == [cell.at]
    assert leftovers(finished) == [f"{cell.name}.h5.damaged"]
    assert (finished / f"{cell.name}.h5.damaged").stat().st_size == length


def test_a_second_damaged_file_does_not_replace_the_first(finished):
    path = finished / f"{cells()[0].name}.h5"
    for content in (b"first", b"second"):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match="damaged"):
            sweep(finished)
    assert [(finished / f"{path.name}.{end}").read_bytes() for end in ("damaged", "damaged2")] == [b"first", b"second"]


def test_a_cell_under_the_name_of_another_is_set_aside(undisturbed, finished, trainings):
    one, other = cells()[:2]
    shutil.copy(finished / f"{one.name}.h5", finished / f"{other.name}.h5")
    with pytest.warns(UserWarning, match="another configuration"):
        assert_same(sweep(finished), undisturbed[1])
    assert trainings == [other.at]


def without_sums(state):
    model, _, provenance = checkpoints.read(state)
    checkpoints.write(state, model, {}, provenance)


def of_another_cell(state):
    model, tensors, provenance = checkpoints.read(state)
    checkpoints.write(state, model, tensors, provenance | {"settings": provenance["settings"] | {"tb": 9.0}})


SPOILERS = {
    "cut": lambda state: state.write_bytes(state.read_bytes()[:-50]),
    "foreign": lambda state: state.write_bytes(b"what is this?"),
    "without its sums": without_sums,
    "of another cell": of_another_cell,
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_a_state_that_cannot_be_gone_on_from_is_set_aside(undisturbed, tmp_path, monkeypatch, spoil):
    with monkeypatch.context() as patch:
        dies_at(patch, training.Run, "one_step", 9)
        with pytest.raises(Death):
            sweep(tmp_path, **ONE)
    state = tmp_path / f"{cells(**ONE)[0].name}.resume.safetensors"
    spoil(state)
    content = state.read_bytes()
    with pytest.warns(UserWarning, match=f"{state.name}.*kept as"):
        ds = sweep(tmp_path, **ONE)
    assert_same(ds, undisturbed[1].sel(ONE_POINT))
    assert leftovers(tmp_path) == [f"{state.name}.damaged"]
    assert (tmp_path / f"{state.name}.damaged").read_bytes() == content


def test_a_foreign_file_where_the_model_goes_is_set_aside(undisturbed, tmp_path):
    model = tmp_path / f"{cells(**ONE)[0].name}.safetensors"
    model.write_bytes(b"mine")
    with pytest.warns(UserWarning, match=f"{model.name}: expected a checkpoint file, got a text file.*kept as"):
        assert_same(sweep(tmp_path, **ONE), undisturbed[1].sel(ONE_POINT))
    assert leftovers(tmp_path) == [f"{model.name}.damaged"]
    assert (tmp_path / f"{model.name}.damaged").read_bytes() == b"mine"


def test_foreign_files_are_let_be(undisturbed, finished):
    contents = {"notes.txt": b"mine", "sweep.h5": b"no HDF5", f"{'f' * 32}.h5": b"no cell", f"{'a' * 32}.lock": b""}
    for name, content in contents.items():
        (finished / name).write_bytes(content)
    (finished / ("b" * 32 + ".h5")).mkdir()
    assert_same(sweep(finished), undisturbed[1])
    assert {name: (finished / name).read_bytes() for name in contents} == contents


def test_a_folder_where_a_cell_should_be_is_refused(tmp_path):
    name = f"{cells(**ONE)[0].name}.h5"
    (tmp_path / name).mkdir()
    with pytest.raises(OSError, match=f"{name}: expected .*, got a folder"):
        sweep(tmp_path, **ONE)


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=f"folder: cannot create {path}"):
            sweep(path, **ONE)


def test_a_read_only_folder_is_refused_unless_all_is_finished(undisturbed, finished, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert_same(sweep(finished), undisturbed[1])
    (finished / f"{cells()[0].name}.h5").unlink()
    before = sorted(os.listdir(finished))
    with pytest.raises(PermissionError, match="folder: no permission to write to"):
        sweep(finished)
    assert sorted(os.listdir(finished)) == before


@pytest.mark.parametrize("suffix", [".h5", ".safetensors", ".resume.safetensors"])
def test_a_link_with_the_name_of_a_file_is_refused_before_anything_is_trained(tmp_path, trainings, suffix):
    """Through a link that leads nowhere a file outside of the folder was written."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f"{cells(**ONE)[0].name}{suffix}").symlink_to(tmp_path / f"outside{suffix}")
    with pytest.raises(OSError, match="got a symbolic link; move it away"):
        sweep(folder, **ONE)
    assert trainings == []
    assert os.listdir(tmp_path) == ["folder"]


def test_a_link_that_comes_during_a_training_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / f"{cells(**ONE)[0].name}.h5"
    whole = training.train

    def train(*given, **options):
        path.symlink_to(tmp_path / "outside.h5")
        return whole(*given, **options)

    monkeypatch.setattr(training, "train", train)
    with pytest.raises(OSError, match="got a symbolic link; move it away"):
        sweep(tmp_path, **ONE)
    assert not (tmp_path / "outside.h5").exists()


def test_a_finished_cell_may_be_a_link(undisturbed, finished, tmp_path, trainings):
    path = finished / f"{cells()[0].name}.h5"
    path.rename(tmp_path / "elsewhere.h5")
    path.symlink_to(tmp_path / "elsewhere.h5")
    assert_same(sweep(finished), undisturbed[1])
    assert trainings == []
