"""A sweep on several processes: the same results, whoever dies."""

import contextlib
import multiprocessing
import os
import re
import signal

import pytest
import torch

from gradlab import progress
from gradlab.sweeps import processes

from .kill_sweep import FORKED, Sweep, claimed, files, wait_for, when
from .tiny_sweep import assert_same, cells, leftovers, sweep

FOREVER = 100_000


@pytest.fixture
def forked(monkeypatch):
    """Workers are forked from a process that has imported what they need: two spawned ones take 10 s of imports."""
    monkeypatch.setattr(processes, "SPAWN", FORKED)


def once_both_are_ready(place):
    """What gives a worker its device waits until all have imported what they need, so that all work at once."""

    def waiting(*given):
        wait_for(lambda: all(os.getpgid(child.pid) == child.pid for child in multiprocessing.active_children()))
        return place(*given)

    return waiting


@pytest.mark.filterwarnings("ignore:worker")
def test_workers_give_what_one_process_gives_also_when_one_is_killed(undisturbed, tmp_path, monkeypatch, forked):
    """What a worker warns of reaches the caller, and torch's threads are shared."""
    undisturbed = undisturbed[1].copy()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f"{cells()[0].name}.resume.safetensors").write_bytes(b"foreign")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(processes, "place", once_both_are_ready(processes.place))
    with pytest.warns(UserWarning) as warned:  # noqa: PT030, PT031

        def both_work():
            """And none is killed between setting the damaged state aside and saying so."""
            said = any("resume.safetensors" in str(one.message) for one in list(warned))
            return said and len(claimed(folder)) == 2

        killer = when(both_work, lambda: multiprocessing.active_children()[0].kill())
        found = sweep(folder, workers=2)
    killer.join()
    (damaged,) = (str(one.message) for one in warned if "resume.safetensors" in str(one.message))
    assert "expected a checkpoint file, got a text file" in damaged
    (died,) = (str(one.message) for one in warned if "died" in str(one.message))
    assert died in [f"worker {n} of 2 died (exit code -9); the other workers continue" for n in (1, 2)]
    assert found.attrs.pop("threads") == "2"
    assert undisturbed.attrs.pop("threads") == "1"
    assert_same(found, undisturbed)
    assert [name[32:] for name in leftovers(folder)] == [".resume.safetensors.damaged"]
    assert multiprocessing.active_children() == []


def test_workers_say_how_far_their_cells_are(tmp_path, monkeypatch, forked, capsys):
    """So the time left is known before the first cell is finished."""
    monkeypatch.setattr(progress, "EVERY", 0.1)
    monkeypatch.setattr(progress, "SHARE_EVERY", 0.0)
    said = re.compile(r"gradlab: sweep: 0% after .* s, about .* left, cells 0/2")
    lines = []

    def both_said():
        lines.append(capsys.readouterr().err)
        return said.search(lines[-1])

    when(both_said, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, tf=0.5, tb=[0.7, 1.3], seeds=1, epochs=FOREVER, workers=2, progress=True)
    assert said.search("".join(lines))


def test_when_all_workers_die_that_is_said(tmp_path):
    def kill_all():
        for child in multiprocessing.active_children():
            child.kill()

    when(lambda: len(multiprocessing.active_children()) == 2, kill_all)
    with pytest.raises(ChildProcessError, match=r"workers: all died \(exit codes -9\); the same call continues"):
        sweep(tmp_path, epochs=FOREVER, workers=2)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.deep)])
def test_workers_end_with_their_parent_and_write_their_states(tmp_path, number):
    parent = Sweep(tmp_path, epochs=FOREVER, workers=2)
    wait_for(lambda: len(files(tmp_path, ".resume.safetensors")) == 2)
    parent.signal(number)
    if number == signal.SIGINT:
        assert (
            parent.result()
            == "KeyboardInterrupt: interrupted; 0 of 12 cells are finished, and the same command continues"
        )
    wait_for(lambda: not claimed(tmp_path))
    wait_for(lambda: leftovers(tmp_path) == sorted(path.name for path in files(tmp_path, ".resume.safetensors")))
    assert len(leftovers(tmp_path)) == 2


def test_a_worker_whose_parent_is_gone_stops_as_on_ctrl_c(monkeypatch):
    gone, sent = [], []
    monkeypatch.setattr(
        multiprocessing, "parent_process", lambda: type("Parent", (), {"join": lambda _: gone.append(1)})()
    )
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((list(gone), pid, number)))
    processes._stop_with_parent()
    assert sent == [([1], os.getpid(), signal.SIGINT)]


def test_an_error_of_all_workers_is_raised(tmp_path, forked):
    """A folder where the state of each cell goes."""
    in_the_way = [f"{cell.name}.resume.safetensors" for cell in cells()]
    for name in in_the_way:
        (tmp_path / name).mkdir()
    with pytest.raises(OSError, match=r"resume.safetensors: .*got a folder"):
        sweep(tmp_path, workers=2)
    assert leftovers(tmp_path) == sorted(in_the_way)


def test_workers_take_a_gpu_each_where_there_are_several(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [processes.place("cuda", index) for index in range(4)] == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert processes.place("auto", 1) == "cuda:1"
    assert processes.place("cuda:1", 0) == "cuda:1"
    assert processes.place("cpu", 1) == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert processes.place("cuda", 1) == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert processes.place("auto", 1) == "cpu"


def test_ctrl_c_in_a_destructor_is_not_lost(monkeypatch):
    """Python drops a KeyboardInterrupt that is raised where a file object is destroyed; `after` does so here."""
    from types import SimpleNamespace

    from gradlab.sweeps import queue

    calls = []

    def after():
        calls.append(1)
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(queue, "work_on", lambda cells, job: True)
    job = SimpleNamespace(cells=[1], ensemble=1, folder=SimpleNamespace(finished=lambda cell: len(calls) > 3))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            queue.work(job, after)
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [1]
