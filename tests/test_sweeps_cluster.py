"""A sweep on a Dask cluster: a scheduler and workers in processes of their own, on the loopback interface."""

import contextlib
import dataclasses
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import dask
import distributed
import pytest

import gradlab
from gradlab import progress
from gradlab.sweeps.cells import grid
from gradlab.sweeps.folder import Folder

from .kill_sweep import claimed, files, when
from .test_parts import TB, TF, campaign
from .test_parts import assert_same as assert_same_figures
from .tiny_sweep import ONE, assert_same, cells, leftovers, sweep

QUICK = {"distributed.comm.timeouts.connect": "1s"}


def start(*arguments, folder):
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as the tests' own process, and as a worker's nanny sets it
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process, pattern):
    """Reads what a process logs up to a line with `pattern`, and from then on lets it log."""
    for line in process.stderr:
        found = re.search(pattern, line)
        if found:
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return found.group(0)
    raise AssertionError(f"{process.args} ended without {pattern}")


@contextlib.contextmanager
def scheduler_in(folder):
    """A scheduler without workers, and its address."""
    process = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", folder=folder)
    try:
        yield process, said(process, r"tcp://127\.0\.0\.1:\d+")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Address of a scheduler, and a function that gives it workers of one thread."""
    folder = tmp_path_factory.mktemp("cluster")
    workers = []

    def alive(count):
        """So many workers; without any a sweep would wait for ever."""
        there = [worker for worker in workers if worker.poll() is None]
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard")
        new = [start("worker", address, *options, folder=folder) for _ in range(count - len(there))]
        workers.extend(new)
        for worker in new:
            said(worker, "Registered to")
        return there + new

    with scheduler_in(folder) as (_, address):
        try:
            yield address, alive
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


def test_a_sweep_on_a_cluster_survives_the_death_of_a_worker(cluster, undisturbed, tmp_path):
    address, alive = cluster
    folder = tmp_path / "cluster"
    doomed, _ = alive(2)
    killer = when(lambda: files(folder, ".h5"), lambda: doomed.send_signal(signal.SIGKILL))
    found = sweep(folder, scheduler=address)
    killer.join()
    assert doomed.wait() == -signal.SIGKILL
    assert_same(found, undisturbed[1])
    assert leftovers(folder) == []


def test_failed_cells_and_models_come_back_too(cluster, tmp_path):
    address, alive = cluster
    alive(1)
    options = {"tf": 0.5, "tb": [0.7, 1e-40], "seeds": 1, "keep_models": True}
    ds = sweep(tmp_path, **options, scheduler=address)
    assert ds.status.values.ravel().tolist() == ["done", "failed"]
    (model,) = files(tmp_path, ".safetensors")
    assert gradlab.load(model).provenance["settings"]["tb"] == 0.7
    assert leftovers(tmp_path) == [model.name]


def test_a_cell_that_another_sweep_has_claimed_is_left_to_it(cluster, tmp_path):
    address, alive = cluster
    alive(1)
    one = cells(**ONE)[0]
    held = Folder(tmp_path).claim(one)
    released = []
    when(
        lambda: len(files(tmp_path, ".h5")) == 1, lambda: (released.append(len(files(tmp_path, ".h5"))), held.release())
    )
    ds = sweep(tmp_path, **ONE | {"tb": [0.7, 1.3]}, scheduler=address)
    assert released == [1]
    assert (ds.status == "done").all()
    assert leftovers(tmp_path) == []


def test_a_cell_that_no_worker_can_run_is_named_and_does_not_stop_the_rest(cluster, tmp_path, monkeypatch):
    """A worker with another version of gradlab."""
    address, alive = cluster
    alive(1)

    def newer(*given):
        found = grid(*given)
        return dataclasses.replace(found, cells=[dataclasses.replace(found.cells[0], version="99"), *found.cells[1:]])

    monkeypatch.setattr("gradlab.sweeps.run.grid", newer)
    with pytest.raises(OSError, match=r"1 of 2 cells did not run; tf 0.5, tb 0.7, seed 3: gradlab: expected version"):
        sweep(tmp_path, **ONE | {"tb": [0.7, 1.3]}, scheduler=address)
    assert len(files(tmp_path, ".h5")) == len(leftovers(tmp_path)) + 1 == 1


def test_the_time_left_is_known_before_the_first_cell_is_finished(cluster, tmp_path, monkeypatch, capsys):
    """Workers say how far their cells are."""
    monkeypatch.setattr(progress, "EVERY", 0.05)
    address, alive = cluster
    alive(1)
    with distributed.Client(address, set_as_default=False) as client:
        client.run(lambda: setattr(progress, "SHARE_EVERY", 0.0))
    sweep(tmp_path, **ONE | {"tb": [0.7, 1.3]}, epochs=60, scheduler=address, progress=True)
    assert re.search(r"gradlab: sweep: \d+% after .* s, about .* left, cells 0/2", capsys.readouterr().err)


# --- clusters that are none ---


@pytest.fixture
def without_workers(tmp_path):
    with scheduler_in(tmp_path) as (process, address):
        yield process, address


def test_ctrl_c_gives_the_claims_back(without_workers, tmp_path):
    folder = tmp_path / "folder"
    when(lambda: claimed(folder), lambda: os.kill(os.getpid(), signal.SIGINT))
    with (
        pytest.warns(UserWarning, match="scheduler: no workers yet"),
        pytest.raises(KeyboardInterrupt, match="0 of 12 cells are finished"),
    ):
        sweep(folder, scheduler=without_workers[1])
    assert os.listdir(folder) == []


@pytest.mark.filterwarnings("ignore:scheduler")
def test_a_scheduler_that_dies_ends_the_sweep(without_workers, tmp_path):
    folder = tmp_path / "folder"
    when(lambda: claimed(folder), without_workers[0].kill)
    with dask.config.set(QUICK), pytest.raises(OSError, match="scheduler: connection lost; the same call continues"):
        sweep(folder, scheduler=without_workers[1])
    assert os.listdir(folder) == []


@pytest.mark.deep  # a scheduler that dies later, and one that ends a connection, are met by default
def test_a_scheduler_that_dies_while_it_is_connected_leaves_one_line(without_workers, tmp_path, monkeypatch, capfd):
    """After the client has it, before the images are sent."""
    process, address = without_workers
    real = distributed.Client.register_plugin

    def late(client, *given, **named):
        process.kill()
        process.wait()
        return real(client, *given, **named)

    monkeypatch.setattr(distributed.Client, "register_plugin", late)
    with (
        dask.config.set(QUICK),
        pytest.raises(OSError, match=r"scheduler: connection to 'tcp.*' lost while it began \("),
    ):
        sweep(tmp_path / "folder", scheduler=address)
    assert capfd.readouterr().err == ""
    assert os.listdir(tmp_path / "folder") == []


@pytest.mark.parametrize("says", [b"", b"nonsense" * 8])
def test_what_is_no_scheduler_leaves_one_line(tmp_path, capfd, says):
    """Something that takes the connection and ends it, as a scheduler that dies then does; or speaks otherwise."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        connection.sendall(says)

        threading.Thread(target=answer, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with dask.config.set(QUICK), pytest.raises(OSError, match="scheduler: no answer from") as raised:
            sweep(tmp_path, scheduler=address)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


@pytest.mark.deep  # a worker that dies later is met by default
def test_a_worker_that_dies_while_it_is_connected_is_done_without(cluster, tmp_path, monkeypatch, capfd):
    address, alive = cluster
    doomed, _ = alive(2)
    real = distributed.Client.register_plugin

    def late(client, *given, **named):
        doomed.kill()
        return real(client, *given, **named)

    monkeypatch.setattr(distributed.Client, "register_plugin", late)
    ds = sweep(tmp_path, **ONE, scheduler=address)
    assert (ds.status == "done").all()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("deaths", [0, pytest.param(1, marks=pytest.mark.deep)])
def test_parts_of_bias_on_a_cluster(cluster, tmp_path, deaths):
    """The figures of one call, from workers that get the content of the checkpoints, of which some die meanwhile."""
    address, alive = cluster
    doomed = alive(1 + deaths)[:deaths]
    analysis = functools.partial(gradlab.bias, draws=16)
    whole, models, x = campaign(tmp_path, analysis, workers=1, scheduler=address)
    killers = [when(lambda: files(whole.folder.path, ".h5"), worker.kill) for worker in doomed]
    whole.measure()
    for killer in killers:
        killer.join()
    for i, model in models.items():
        assert_same_figures(whole.found()[i], gradlab.bias(model, x, TF, TB, draws=16))
    whole.remove()
    assert not whole.folder.path.exists()


def test_no_scheduler_is_said(tmp_path):
    with dask.config.set(QUICK), pytest.raises(OSError, match=r"scheduler: no answer from 'tcp://127.0.0.1:1'"):
        sweep(tmp_path, scheduler="tcp://127.0.0.1:1")


@pytest.mark.parametrize("address", ["nonsense:1:2", "localhost", "", "foo://localhost:1"])
def test_what_is_no_address_is_said(tmp_path, address):
    with pytest.raises(ValueError, match=r"scheduler: expected an address like tcp://host:8786, got"):
        sweep(tmp_path, scheduler=address)


def test_without_dask_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradlab.sweeps.cluster", None)
    with pytest.raises(
        ValueError, match=r"scheduler: expected Dask to be installed, .*pip install '\.\[distributed\]'"
    ):
        sweep(tmp_path, scheduler="tcp://127.0.0.1:1")
