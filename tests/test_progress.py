"""Progress where standard error is no terminal: a line a minute, with the time left."""

import os
import threading
import time

import pytest
import torch

import gradlab
from gradlab import progress


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(progress, "_ended", -1000.0)
    return found


def lines(capsys):
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_a_line_a_minute_says_how_far_it_is_and_what_is_left(clock, capsys):
    with progress.bar("drawing", 100, shown=True) as advance:
        for _ in range(50):
            clock.now += 10
            advance()
    assert lines(capsys)[:3] == [
        "gradlab: drawing: 6% after 60 s, about 16 min left",
        "gradlab: drawing: 12% after 2 min, about 15 min left",
        "gradlab: drawing: 18% after 3 min, about 14 min left",
    ]


def test_what_was_done_before_does_not_shorten_the_time_left(clock, capsys):
    with progress.bar("training", 100, shown=True, done=90) as advance:
        clock.now += 120
        advance(5, epoch="3/4")
    assert lines(capsys) == ["gradlab: training: 95% after 2 min, about 2 min left, epoch 3/4"]


def test_short_steps_one_after_the_other_are_one_measurement(clock, capsys):
    for _ in range(4):
        with progress.bar("drawing", 2, shown=True) as advance:
            clock.now += 20
            advance()
    assert len(lines(capsys)) == 1
    clock.now += 600  # a notebook between two cells
    with progress.bar("drawing", 2, shown=True) as advance:
        clock.now += 20
        advance()
    assert lines(capsys) == []


def test_nothing_is_said_unless_wanted(clock, capsys):
    with progress.bar("drawing", 100, shown=False) as advance:
        clock.now += 1000
        advance()
    assert lines(capsys) == []


def test_a_bar_within_a_long_step_says_how_much_of_it_is_done(clock, capsys):
    """Also one that computes several steps at once; the bars within that one do not count."""
    with progress.bar("sweep", 4, shown=True, long_steps=True) as advance:
        with progress.bar("training 2", 10, shown=False, pieces=2) as inner:
            clock.now += 30
            inner(5)
            with progress.bar("drawing", 10, shown=False) as innermost:
                clock.now += 30
                innermost(1)
            advance(0, failed=0, left="0:01:00")
        clock.now += 60
        progress.step_ends()
        advance(2)
    assert lines(capsys) == [
        "gradlab: sweep: 25% after 60 s, about 3 min left, failed 0",
        "gradlab: sweep: 50% after 2 min, about 2 min left, failed 0",
    ]


def test_several_bars_within_a_step_never_go_back(clock, capsys):
    """Each is half of what is left of the step, since nobody knows how many follow."""
    with progress.bar("measuring", 2, shown=True, long_steps=True) as advance:
        for _ in range(2):
            for part in ("choosing", "enumerating", "drawing"):
                with progress.bar(part, 2, shown=False) as inner:
                    for _ in range(2):
                        clock.now += 30
                        inner()
                        advance(0)
            progress.step_ends()
            advance()
    shares = [line.split(": ")[2].split("%")[0] for line in lines(capsys)]
    assert shares == ["25", "38", "44", "75", "88", "94"]


def test_a_step_of_minutes_has_a_line_a_minute(capsys, monkeypatch):
    """Nobody calls `advance` meanwhile; before the first step and without a bar, the command is said to run."""
    monkeypatch.setattr(progress, "EVERY", 0.05)
    monkeypatch.setattr(progress, "_told", 0.0)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    said = []

    def until_said(words):
        end = time.monotonic() + 60
        while not any(words in line for line in said) and time.monotonic() < end:
            time.sleep(0.02)
            said.extend(lines(capsys))
        assert any(words in line for line in said), said

    with progress.running("bias"):
        until_said("gradlab: bias: running for 0 s")
        with progress.bar("integrating", 8, shown=True) as advance:
            until_said("gradlab: integrating: 0% after 0 s")
            advance(4)
            until_said("gradlab: integrating: 50% after 0 s, about 0 s left")
    assert progress._open == []


def test_an_interrupt_while_a_bar_opens_leaves_nothing_open(monkeypatch):
    own = threading.Thread.start

    def start(thread):
        own(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            progress.bar("measuring", 2, shown=True).__enter__()
    assert not progress._open
    assert "gradlab progress" not in [thread.name for thread in threading.enumerate()]


def test_the_thread_of_the_lines_ends_with_the_last_measurement():
    """Also of two that overlap, in two threads; each counts what its own thread says."""

    def tellers():
        return [thread for thread in threading.enumerate() if thread.name == "gradlab progress"]

    opened, first_is_over = threading.Event(), threading.Event()

    def second():
        with progress.bar("second", 2, shown=True):
            opened.set()
            first_is_over.wait()
            progress.under_way(0.25)
            shares.append(progress._open[-1].share)

    shares, other = [], threading.Thread(target=second)
    with progress.bar("first", 2, shown=True):
        other.start()
        opened.wait()
        progress.under_way(0.5)
        shares.append([count.share for count in progress._open])
        assert len(tellers()) == 1
    assert len(tellers()) == 1
    first_is_over.set()
    other.join()
    assert shares == [[0.5, 0.0], 0.25]
    assert tellers() == []


def test_shares_of_threads_do_not_mix(monkeypatch):
    """As of two tasks in one worker of a cluster."""
    monkeypatch.setattr(progress, "SHARE_EVERY", 0.0)
    said, both = {}, threading.Barrier(2)

    def task(name, steps):
        said[name] = []
        progress.pass_shares_to(said[name].append)
        both.wait()
        with progress.bar("drawing", 10, shown=False, pieces=1) as advance:
            both.wait()
            advance(steps)
            both.wait()
        progress.step_ends()

    tasks = [threading.Thread(target=task, args=given) for given in (("a", 5), ("b", 10))]
    for one in tasks:
        one.start()
    for one in tasks:
        one.join()
    assert said == {"a": [0.5, 1.0, 0.0], "b": [1.0, 1.0, 0.0]}


def test_a_busy_machine_is_named_with_the_cure(clock, capsys, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (50.0, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for threads in (None, "1"):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if threads:
            monkeypatch.setenv("OMP_NUM_THREADS", threads)
        with progress.bar("drawing", 100, shown=True) as advance:
            clock.now += 100
            advance(10)
    busy, told = lines(capsys)
    assert busy.endswith("(load 50.0 on 2 cores: OMP_NUM_THREADS=1 may be faster)")
    assert told.endswith("left")


def test_a_gap_in_a_pipe_says_something(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    gradlab.gap(gradlab.bundled("vae-8x4-mnist"), x, [2.0, 3.0], 1.0, draws=4, compute=gradlab.Compute(progress=True))
    assert "gradlab: measuring the gap: 100% after 0 s, about 0 s left" in "\n".join(lines(capsys))
