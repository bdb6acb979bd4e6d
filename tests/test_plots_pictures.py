"""Pictures: the values drawn are the images', clipped, in their places."""

import itertools

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from gradlab import plots

from .figures import misplaced_texts


def pair(count, channels=1, high=4, wide=4):
    """Images and reconstructions whose values all differ, some outside [0, 1]."""
    rng = np.random.default_rng(0)
    return rng.uniform(-0.5, 1.5, (2, count, channels, high, wide))


def drawn(figure):
    """The pictures of the two rows of each row of pairs: [[images, reconstructions], ...], from top to bottom."""
    (ax,) = figure.axes
    rows = {}
    for image in ax.images:
        rows.setdefault(round(image.get_extent()[3], 6), []).append(image)
    rows = [sorted(rows[top], key=lambda image: image.get_extent()[0]) for top in sorted(rows)]
    return [rows[k : k + 2] for k in range(0, len(rows), 2)]


def boxes(figure):
    """Where pictures stand, in inches: {image: box}."""
    FigureCanvasAgg(figure).draw()
    (ax,) = figure.axes
    corners = {image: np.array(image.get_extent()).reshape(2, 2).T for image in ax.images}
    return {image: ax.transData.transform(corner) / figure.dpi for image, corner in corners.items()}


def test_values_are_clipped_for_display_only():
    images, reconstructions = pair(3)
    before = images.copy(), reconstructions.copy()
    [(above, below)] = drawn(plots.reconstructions(images, reconstructions))
    for shown, given in ((above, images), (below, reconstructions)):
        for picture, values in zip(shown, given, strict=True):
            np.testing.assert_array_equal(picture.get_array(), np.clip(values[0], 0, 1))
            assert (picture.get_array() == 0).any()
    np.testing.assert_array_equal((images, reconstructions), before)


def test_grey_is_from_black_to_white_whatever_the_values():
    dim = np.full((1, 1, 2, 2), 0.25)
    for picture in plots.reconstructions(dim, dim / 2).axes[0].images:
        assert (picture.norm.vmin, picture.norm.vmax) == (0, 1)
        assert picture.cmap.name in ("gray", "grey")
        assert picture.get_interpolation() == "nearest"


def test_three_channels_are_colours():
    images, reconstructions = pair(2, channels=3, high=5, wide=3)
    [(above, below)] = drawn(plots.reconstructions(images, reconstructions))
    for shown, given in ((above, images), (below, reconstructions)):
        for picture, values in zip(shown, given, strict=True):
            assert picture.get_array().shape == (5, 3, 3)
            for channel in range(3):
                np.testing.assert_array_equal(picture.get_array()[..., channel], np.clip(values[channel], 0, 1))


@pytest.mark.parametrize(("count", "rows"), [(1, [1]), (10, [10]), (11, [6, 5]), (23, [8, 8, 7])])
def test_pairs_stand_in_rows_of_up_to_ten(count, rows):
    images, reconstructions = pair(count)
    figure = plots.reconstructions(images, reconstructions)
    found = drawn(figure)
    assert [(len(above), len(below)) for above, below in found] == [(n, n) for n in rows]
    in_order = [picture.get_array() for above, _ in found for picture in above]
    np.testing.assert_array_equal(in_order, np.clip(images[:, 0], 0, 1))
    words = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(words) == sorted(["image", "recon-\nstruction"] * len(rows))
    assert not figure.axes[0].axison


@pytest.mark.parametrize("count", [1, 4, 10, 23])
@pytest.mark.parametrize(("high", "wide"), [(28, 28), (20, 32), (32, 20)])
def test_pictures_keep_their_shape_and_do_not_touch(count, high, wide):
    figure = plots.reconstructions(
        *pair(count, high=high, wide=wide), caption="Some words, so many that they wrap. " * 4
    )
    width, height = figure.get_size_inches()
    assert width <= 5.51  # a text column
    found = boxes(figure)
    for (x0, y0), (x1, y1) in found.values():
        assert (y1 - y0) / (x1 - x0) == pytest.approx(high / wide, rel=1e-6)
        assert 0.3 < x1 - x0 < 1
        assert min(x0, y0) > 0
        assert (x1, y1) < (width, height)
    for above, below in drawn(figure):
        for upper, lower in zip(above, below, strict=True):
            assert found[lower][1, 1] < found[upper][0, 1]
            assert found[lower][0, 0] == pytest.approx(found[upper][0, 0])
        for left, right in itertools.pairwise(above):
            assert found[left][1, 0] < found[right][0, 0]


@pytest.mark.parametrize("count", [1, 4, 23])
def test_words_stand_beside_and_below_the_pictures(count):
    figure = plots.reconstructions(*pair(count), caption="Some words, so many that they wrap. " * 4)
    assert " ".join(plots.caption_of(figure).split()) == ("Some words, so many that they wrap. " * 4).strip()
    plots.publishing.draw_caption(figure)
    assert misplaced_texts(figure) == []
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    first = min(box[0, 0] for box in boxes(figure).values())
    lowest = min(box[0, 1] for box in boxes(figure).values())
    for text in figure.axes[0].texts:
        box = text.get_window_extent(canvas.get_renderer())
        assert box.x0 > 0
        assert box.x1 < first * figure.dpi
    (under,) = figure.texts
    assert under.get_window_extent(canvas.get_renderer()).y1 < lowest * figure.dpi


def test_without_a_caption_there_is_none():
    assert plots.reconstructions(*pair(2)).texts == []


def test_tensors_are_drawn_as_arrays_are():
    images, reconstructions = pair(2)
    as_arrays = plots.reconstructions(images, reconstructions)
    as_tensors = plots.reconstructions(torch.from_numpy(images), torch.from_numpy(reconstructions))
    for picture, same in zip(as_arrays.axes[0].images, as_tensors.axes[0].images, strict=True):
        np.testing.assert_array_equal(picture.get_array(), same.get_array())


GOOD = np.full((2, 1, 4, 4), 0.5)


@pytest.mark.parametrize(
    ("images", "reconstructions", "message"),
    [
        (GOOD[0], GOOD, r"images: expected shape \(n, channels, height, width\) with 1 or 3 channels, got \(1, 4, 4\)"),
        (GOOD, GOOD[:, 0], r"reconstructions: expected shape \(n, channels, height, width\) .*, got \(2, 4, 4\)"),
        (GOOD.repeat(2, 1), GOOD, r"images: expected .*1 or 3 channels, got \(2, 2, 4, 4\)"),
        (GOOD[:0], GOOD[:0], r"images: expected .*, got \(0, 1, 4, 4\)"),
        (GOOD, GOOD[:1], r"reconstructions: expected shape \(2, 1, 4, 4\), that of images, got \(1, 1, 4, 4\)"),
        (GOOD.repeat(3, 1), GOOD, r"reconstructions: expected shape \(2, 3, 4, 4\), .*, got \(2, 1, 4, 4\)"),
        ((GOOD * 255).astype(np.uint8), GOOD, "images: expected floats from 0 to 1, got uint8 values"),
        (GOOD, GOOD * np.nan, "reconstructions: expected floats from 0 to 1, got values that are not finite"),
    ],
)
def test_errors_say_what_came_and_what_would_do(images, reconstructions, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        plots.reconstructions(images, reconstructions)
