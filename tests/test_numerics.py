"""Full precision whatever the caller has set, and memory from what there is."""

import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gradlab
from gradlab import checks, numerics

from . import late_reads, problems

PLACES = (*numerics._ON_GPU, *numerics._ON_CPU)


@pytest.fixture(autouse=True)
def restored():
    before = [place.fp32_precision for place in PLACES]
    yield
    for place, precision in zip(PLACES, before, strict=True):
        place.fp32_precision = precision


def precisions():
    return [place.fp32_precision for place in PLACES]


def test_convolutions_on_a_gpu_are_rounded_unless_told_otherwise():
    """What makes it worth switching off."""
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"


@pytest.mark.parametrize("asked", [False, True])
def test_tensor_float_32_is_off_unless_asked_for(asked):
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    before = precisions()
    with numerics.plain_arithmetic(tf32=asked):
        assert precisions() == ["tf32" if asked else "ieee"] * 3 + ["ieee"] * 3
    assert precisions() == before


def test_threads_that_come_and_go_keep_it(restored):
    """One that leaves first takes nothing from the other, and the last brings the caller's settings back."""
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    before, seen = precisions(), []
    entered, left = threading.Event(), threading.Event()

    def second():
        with numerics.plain_arithmetic():
            entered.set()
            assert left.wait(10)
            seen.append(precisions())

    thread = threading.Thread(target=second)
    with numerics.plain_arithmetic():
        thread.start()
        assert entered.wait(10)
    left.set()
    thread.join()
    assert seen == [["ieee"] * 6]
    assert precisions() == before


def test_blocks_within_blocks(restored):
    before = precisions()
    with numerics.plain_arithmetic(tf32=True):
        with numerics.plain_arithmetic():
            assert precisions() == ["ieee"] * 6
        assert precisions() == ["tf32"] * 3 + ["ieee"] * 3
    assert precisions() == before


def test_the_callers_settings_come_back_after_an_error():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    before = precisions()
    with pytest.raises(KeyError), numerics.plain_arithmetic():
        raise KeyError
    assert precisions() == before


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("name", ["bias", "gap"])
def test_analyses_run_with_it_and_say_so(name, tf32):
    model, x = (problem := problems.make("3x5-bernoulli-mlp")).model, problem.x
    seen = {"encoder": [], "decoder": []}
    for part, precisions in seen.items():
        getattr(model, part).register_forward_hook(
            lambda module, given, output, into=precisions: into.append(torch.backends.cudnn.conv.fp32_precision)
        )
    ds = getattr(gradlab, name)(model, x, 1.6, 1.3, draws=4, compute=gradlab.Compute(tf32=tf32))
    # the logits are the point at which gradients are taken, and the check for rows that mix takes full precision
    assert set(seen["encoder"]) == {"ieee"}
    assert seen["decoder"][-1] == ("tf32" if tf32 else "ieee")
    assert ("tf32" in seen["decoder"]) == tf32
    assert ds.attrs["tf32"] == int(tf32)


def test_memory_is_what_was_asked_for_or_a_share_of_what_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    assert numerics.working_memory(None, torch.device("cpu")) == numerics.MEMORY
    assert numerics.working_memory(None, torch.device("cuda")) == 250
    assert numerics.working_memory(77, torch.device("cuda")) == 77
    with pytest.raises(ValueError, match=r"memory: expected a whole number of at least 1, got 0"):
        numerics.working_memory(0, torch.device("cpu"))


# --- checks that are read late ---


@pytest.fixture
def late(monkeypatch):
    late_reads.pretend(monkeypatch)
    return lambda: checks.deferred(torch.device("cuda"))


def complaint(number):
    def complain():
        raise ValueError(f"block {number}")

    return complain


@pytest.mark.parametrize("count", range(6))
def test_what_is_found_late_is_found(late, count):
    for bad in range(count):
        done = []
        with pytest.raises(ValueError, match=f"block {bad}"), late() as check:  # noqa: PT012
            for number in range(count):
                check(torch.tensor(number < bad), complaint(number))  # the first of several is named
                done.append(number)
        assert len(done) == min(count, bad + 2)
    with late() as check:
        for number in range(count):
            check(torch.tensor(True), complaint(number))


def test_a_false_alarm_is_none(late):
    with late() as check:
        check(torch.tensor(False), lambda: None)


def test_what_follows_from_a_fault_does_not_hide_it(late):
    with pytest.raises(ValueError, match="block 0") as raised, late() as check:  # noqa: PT012
        check(torch.tensor(False), complaint(0))
        raise RuntimeError("consequence")
    assert isinstance(raised.value.__context__, RuntimeError)
    with pytest.raises(RuntimeError, match="another"), late() as check:  # noqa: PT012
        check(torch.tensor(True), complaint(0))
        raise RuntimeError("another")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_is_finite(dtype):
    largest = torch.finfo(dtype).max
    assert checks.all_finite(torch.tensor([largest, -largest, 0.0, torch.finfo(dtype).tiny], dtype=dtype))
    for other in (torch.inf, -torch.inf, torch.nan):
        assert not checks.all_finite(torch.tensor([1.0, other], dtype=dtype))
        with pytest.raises(ValueError, match=r"x: expected finite values, got -?(inf|nan) at index \(1,\)"):
            checks.finite("x", torch.tensor([1.0, other], dtype=dtype), "")
    for whole in (torch.tensor([True, False]), torch.tensor([2**62])):
        checks.finite("x", whole, "")


def test_what_was_overwritten_before_a_late_read_is_refused_without_a_place(late):
    values = torch.tensor([1.0, torch.inf])

    def overwrites():
        with late() as check:
            checks.finite("loss", values, "scale it", check)
            values.zero_()

    with pytest.raises(ValueError, match=r"^loss: expected finite values, got others; scale it$"):
        overwrites()


# --- squares of any size ---

SIZES = {
    torch.float16: [6e-5, 6e4],
    torch.bfloat16: [1e-30, 1e30],
    torch.float32: [1e-36, 1e38],
    torch.float64: [1e-150, 1e-30, 1e30, 1e300],
}


@pytest.mark.parametrize(("dtype", "size"), [(dtype, size) for dtype, of in SIZES.items() for size in of])
def test_what_a_power_of_two_divides_has_a_square(dtype, size):
    a = torch.tensor([0.25, -1.0, 0.5], dtype=torch.float64).mul(size).to(dtype)
    by = numerics.power_of_two(a)
    assert torch.frexp(by).mantissa == 0.5
    squares = (a / by.to(dtype)).square()
    assert squares.isfinite().all()
    assert (squares > 0).all()
    assert squares.max() >= 1
    assert 0 < by.square() < torch.inf
    torch.testing.assert_close(by * squares.sqrt().double(), a.double().abs())


def test_a_power_of_two_of_what_has_no_size_and_of_complex_numbers():
    for nothing in ([], [0.0, -0.0]):
        assert numerics.power_of_two(torch.tensor(nothing)) == 1
    assert numerics.power_of_two(torch.tensor([3.0 + 4.0j])) == 4
    assert numerics.power_of_two(torch.tensor([-5.0, 1.0])) == 4
    for unknown in (torch.nan, torch.inf, -torch.inf):
        assert numerics.power_of_two(torch.tensor([unknown, 1.0])) > 0


def test_a_power_of_two_needs_no_copy():
    """The largest tensor made is far below the one that it is of."""

    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            made = [
                part for part in (out if isinstance(out, tuple | list) else [out]) if isinstance(part, torch.Tensor)
            ]
            self.largest = max(self.largest, *(part.numel() for part in made), 0)
            return out

    a = torch.randn(50, 4, 6)
    for dim, count in (((), 1), ((0, 2), 4)):
        with Sizes() as seen:
            found = numerics.power_of_two(a, dim)
        assert seen.largest == found.numel() == count
        wanted = torch.exp2(a.abs().amax(dim, keepdim=bool(dim)).log2().floor())
        torch.testing.assert_close(found, wanted.double().reshape(found.shape))
