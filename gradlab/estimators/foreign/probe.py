"""What has to be known of a layer before it can be measured, found by running it on a few rows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from ... import errors
from ...latents import BINARY, LatentKind
from .habits import LayerWarning, habits
from .places import Layout, Place, candidates, layout, one_array_is_enough
from .running import Layer, Plan, Recorder, forms, values_of

ROWS = (5, 7)  # of the trials that find the dimension of the rows
AGREEING_ROWS = 64  # of the trials that find the place of noise array 0
DEPENDING_ROWS = 300  # of the trials that find which temperatures the codes depend on
MOST_PLACES = 24
TEMPERATURES = (0.3, 3.0)


@dataclass(frozen=True)
class Trial:
    """How to call a layer for codes of one shape, and what its codes depend on."""

    plan: Plan
    noise_arrays: int
    depends: tuple[str, ...]  # those of "tf" and "tb" that change the codes


def tried(layer: Layer, kind: LatentKind, like: Tensor) -> Trial:
    """The Trial for codes of the shape and dtype of `like` (latent[, category]).

    Raises ValueError for a layer that cannot be measured. Warns of an estimate that is not linear in the derivative.
    """
    form, layouts = _form_and_layouts(layer, kind, like)
    place = _best_place(layer, kind, like, form, layouts)
    categories = 1 if kind is BINARY else like.shape[-1]
    arrays = 1 if one_array_is_enough(kind, layouts, place, categories) else 2
    plan = Plan(form, layouts, place)
    _check(layer, kind, like, plan)
    for category, sentence in habits(layer, some_logits(AGREEING_ROWS, like), plan, kind):
        errors.warn(f"layer: {layer.name}: {sentence}", category)
    return Trial(plan, arrays, _depends(layer, kind, like, plan))


def some_logits(rows: int, like: Tensor) -> Tensor:
    """Logits (row, *like.shape) without a pattern, of size one or so."""
    count = rows * like.numel()
    numbers = torch.sin(3.1 * torch.arange(1, 1 + count, dtype=torch.float64) ** 1.5)
    return (1.3 * numbers).reshape(rows, *like.shape).to(like)


def some_noise(kind: LatentKind, rows: int, like: Tensor, arrays: int = 2, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return kind.noise((arrays, rows, *like.shape), dtype=torch.float64, generator=generator).to(like)


def _form_and_layouts(layer: Layer, kind: LatentKind, like: Tensor) -> tuple[str, tuple[Layout, ...]]:
    """The first form in which the layer works, one whose codes are codes before others, and its random calls."""
    failure: ValueError | None = None
    working: list[tuple[str, str, list[Recorder]]] = []
    for form in forms(kind):
        records = [Recorder() for _ in ROWS]
        try:
            found = [
                layer.run(form, some_logits(rows, like), 1.0, 1.0, record, torch.ones(rows, *like.shape).to(like))[0]
                for rows, record in zip(ROWS, records, strict=True)
            ]
        except ValueError as error:
            failure = failure or error
            continue
        working.append((form, values_of(kind, found[-1]), records))
        if working[-1][1] != "other":
            break
    if not working:
        assert failure is not None
        raise failure
    form, _, records = next((one for one in working if one[1] != "other"), working[0])
    if form != working[0][0]:
        errors.warn(
            f"layer: {layer.name}: with logits (row, latent, category) its codes are not one-hot or relaxed along the"
            " last dimension, so it is called with one row for each latent; does it take dim=1 for the categories?",
            LayerWarning,
        )
    if len({tuple(record.names) for record in records}) > 1:
        raise ValueError(
            f"layer: {layer.name}: expected the same random calls each time, got {records[0].names}, then"
            f" {records[1].names} (does it draw until something holds?)"
        )
    layouts = []
    more = _with_more_latents(layer, like, form, records[0])
    for name, *shapes, of_more in zip(records[0].names, *(record.shapes for record in records), more, strict=True):
        found_layout = layout(name, shapes, ROWS, like.shape[0], of_more)
        if found_layout is None:
            raise ValueError(
                f"layer: {layer.name}: expected random numbers of each row's own, got a call of {name} with shape"
                f" {shapes[0]} for {ROWS[0]} rows of logits {tuple(like.shape)} and {shapes[1]} for {ROWS[1]}; all"
                " examples share its numbers: draw them in the shape of the logits"
            )
        layouts.append(found_layout)
    return form, tuple(layouts)


def _with_more_latents(layer: Layer, like: Tensor, form: str, record: Recorder) -> list[tuple[int, ...] | None]:
    """The shapes of the calls with one latent more; None where the layer does not run so, or need not."""
    unknown: list[tuple[int, ...] | None] = [None] * len(record.names)
    if all(shape[1:].count(like.shape[0]) < 2 for shape in record.shapes):
        return unknown
    more, shape = Recorder(), (like.shape[0] + 1, *like.shape[1:])
    try:
        layer.run(form, some_logits(ROWS[0], like.new_empty(shape)), 1.0, 1.0, more)
    except ValueError:
        return unknown
    return [*more.shapes] if more.names == record.names else unknown


def _best_place(layer: Layer, kind: LatentKind, like: Tensor, form: str, layouts: tuple[Layout, ...]) -> Place | None:
    """The place of noise array 0 with which the codes agree most with hard(l + g)."""
    logits, noise = some_logits(AGREEING_ROWS, like), some_noise(kind, AGREEING_ROWS, like)
    wanted = kind.hard(logits + noise[0])
    best, most = None, -1.0
    categories = 2 if kind is BINARY else like.shape[-1]
    for place in itertools.islice(candidates(kind, layouts, categories), MOST_PLACES):
        z, _ = Plan(form, layouts, place).run(layer, kind, logits, noise, 1.0, 1.0)
        hard = (z > 0.5).to(z.dtype) if kind is BINARY else kind.hard(z)
        share = float((hard == wanted).double().mean())
        if share > most:
            best, most = place, share
        if most == 1.0:
            break
    return best


def _check(layer: Layer, kind: LatentKind, like: Tensor, plan: Plan) -> None:
    """ValueError unless equal noise gives equal codes and rows are apart; a warning if the estimate is not linear."""
    rows = ROWS[1]
    logits, noise = some_logits(rows, like), some_noise(kind, rows, like)
    v, w = some_logits(2 * rows, like).flip(0).split(rows)
    z, of_v = plan.run(layer, kind, logits, noise, 1.0, 1.0, v)
    again, of_v_again = plan.run(layer, kind, logits, noise, 1.0, 1.0, v)
    assert of_v is not None
    assert of_v_again is not None
    if not (torch.equal(z, again) and _close(of_v, of_v_again)):
        raise ValueError(
            f"layer: {layer.name}: expected the same codes and gradient from the same random numbers, got others when"
            " it is called again; does it draw from numpy or random, or keep a state?"
        )
    some = slice(2, 4)
    alone, of_v_alone = plan.run(layer, kind, logits[some], noise[:, some], 1.0, 1.0, v[some])
    assert of_v_alone is not None
    if not (_close(alone, z[some]) and _close(of_v_alone, of_v[some])):
        raise ValueError(
            f"layer: {layer.name}: expected each row to be treated as if it were alone, got codes or gradients that"
            f" depend on the other rows ({_why_rows_depend(layer, kind, like, plan)})"
        )
    of_w, of_both = (plan.run(layer, kind, logits, noise, 1.0, 1.0, u)[1] for u in (w, 3 * v - 100 * w))
    assert of_w is not None
    assert of_both is not None
    if not _close(of_both, 3 * of_v - 100 * of_w, 16 * rounding(of_v)):
        errors.warn(
            f"layer: {layer.name}: its gradient is not linear in the gradient that reaches it (clipping?); figures are"
            " those of the loss of each example, and a training on the mean over a batch has others",
            LayerWarning,
        )


def _why_rows_depend(layer: Layer, kind: LatentKind, like: Tensor, plan: Plan) -> str:
    alike = some_logits(1, like).expand(ROWS[1], *like.shape)
    noise = some_noise(kind, 1, like).expand(2, ROWS[1], *like.shape)
    z, _ = plan.run(layer, kind, alike, noise, 1.0, 1.0)
    if bool((z == z[:1]).all()):
        return "a normalisation over the batch?"
    return "random numbers that it keeps from an earlier call, or draws from numpy with the same seed in every call?"


def _depends(layer: Layer, kind: LatentKind, like: Tensor, plan: Plan) -> tuple[str, ...]:
    """Those of "tf" and "tb" that change the codes."""
    rows = max(4, min(DEPENDING_ROWS, 2**18 // like.numel()))
    logits, noise = some_logits(rows, like), some_noise(kind, rows, like)

    def codes(tf: float, tb: float) -> Tensor:
        z, _ = plan.run(layer, kind, logits, noise, tf, tb)
        return z.round() if layer.discrete else z

    found = []
    for name in layer.arguments.taken:
        pairs = [(a, b) if name == "tf" else (b, a) for a in TEMPERATURES for b in TEMPERATURES]
        at = [codes(*pair) for pair in pairs]
        # a changes in steps of two
        if not (torch.equal(at[0], at[2]) and torch.equal(at[1], at[3])):
            found.append(name)
    return tuple(found)


def rounding(numbers: Tensor) -> float:
    """The relative rounding of the narrowest precision that holds these numbers: that in which they were computed."""
    narrow = (torch.bfloat16, torch.float16, torch.float32)
    fits = (dtype for dtype in narrow if torch.equal(numbers.to(dtype).to(numbers.dtype), numbers))
    return torch.finfo(next(fits, numbers.dtype)).eps


def _close(one: Tensor, other: Tensor, least: float = 0.0) -> bool:
    tolerance = max(least, 1e-4 if one.dtype == torch.float32 else 1e-9)
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))
