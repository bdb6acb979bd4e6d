"""The page of results: in a browser, without one, from hostile and from large files."""

import functools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr

import gradlab
from gradlab import rounding
from gradlab.attributes import plain
from gradlab.kinds import first_metrics
from gradlab.reports import points, prose
from gradlab.reports.points import estimates_at, places
from gradlab.schema import upgraded

from .chromium import needs_browser, opened
from .problems import make
from .tiny_sweep import sweep

NAMES = ("grid", "point", "cross", "estimators", "exact", "gap", "sweep")
FIGURES = ("relative_bias_debiased", "relative_bias", "relative_std", "cosine", "matched_bias")
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Small files of each kind, by name."""
    folder = tmp_path_factory.mktemp("results")
    problem = make("3x5-bernoulli-mlp")
    model, x = problem.model, problem.x
    few = {"draws": 64, "seed": 1}
    grid = [0.5, 1.0, 1.6, 2.5]
    made = {
        "grid": gradlab.bias(model, x, grid, grid, target="both", **few),
        "point": gradlab.bias(model, x, 1.6, 1.3, **few),
        "cross": gradlab.bias(model, x, grid, grid, cross=(1.6, 1.0), **few),
        "estimators": gradlab.bias(model, x, 1.0, 1.0, estimator=["st-gs", "ste", "rloo"], **few),
        "exact": gradlab.bias(model, x, 1.6, 1.3, moments="exact"),
        "gap": gradlab.gap(model, x, [0.5, 1.0], [0.5, 1.0, 2.0], draws=8),
        "sweep": sweep(folder / "cells", tf=[0.5, 1.6], tb=[0.7, 1.3], epochs=1),
    }
    for name, ds in made.items():
        gradlab.save_results(ds, folder / f"{name}.h5")
    return folder


@pytest.fixture(scope="module")
def page_of(results):
    """Makes the page of some of the results, each once."""

    @functools.cache
    def made(*names):
        out = results / f"{'-'.join(names)}.html"
        gradlab.report([results / f"{name}.h5" for name in names], out)
        return out

    return made


# --- in a browser ---


@needs_browser
def test_a_heading_sorts_its_table(results, page_of, tmp_path):
    page = page_of("grid")
    script = """
      const table = document.querySelector('#table-1'), heads = [...table.tHead.rows[0].cells];
      const at = heads.findIndex((head) => head.textContent.includes('relative bias'));
      const values = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[at].dataset.value));
      const button = heads[at].querySelector('button');
      const found = {before: heads[at].getAttribute('aria-sort')};
      button.focus();
      found.focused = document.activeElement === button;
      button.click();
      found.rising = values(); found.sort = heads[at].getAttribute('aria-sort');
      button.click();
      found.falling = values(); found.again = heads[at].getAttribute('aria-sort');
      heads[0].querySelector('button').click();
      found.left = heads[at].getAttribute('aria-sort');
      return JSON.stringify(found);
    """
    found = json.loads(opened(page, script, tmp_path))
    wanted = sorted(gradlab.open_results(results / "grid.h5").relative_bias_debiased.values.ravel().tolist())
    states = [found[name] for name in ("before", "sort", "again", "left")]
    assert states == ["none", "ascending", "descending", "none"]
    assert found["focused"]
    np.testing.assert_allclose(found["rising"], wanted)
    np.testing.assert_allclose(found["falling"], wanted[::-1])


@needs_browser
def test_a_cell_tells_its_value_and_interval_and_the_choice_changes_it(results, page_of, tmp_path):
    page = page_of("grid")
    script = """
      const place = document.querySelector('#heatmap-1');
      const cell = () => place.querySelectorAll('.cells td')[1];  // topmost row, second column: tb 2.5, tf 1
      const read = () => place.querySelector('.reading').textContent;
      cell().dispatchEvent(new MouseEvent('mouseover', {bubbles: true}));
      const found = {inCell: cell().textContent, shown: !place.hidden, hover: read(),
        tip: document.querySelector('.tip').textContent,
        tipShown: !document.querySelector('.tip').hidden};
      const [figure, target] = place.querySelectorAll('select');
      figure.value = String([...figure.options].findIndex((option) => option.text === 'cosine'));
      figure.dispatchEvent(new Event('change'));
      target.value = '1';
      target.dispatchEvent(new Event('change'));
      cell().focus();
      found.focus = read();
      cell().dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
      found.right = document.activeElement.getAttribute('aria-label');
      found.stops = place.querySelectorAll('.cells td[tabindex="0"]').length;
      return JSON.stringify(found);
    """
    found = json.loads(opened(page, script, tmp_path))
    ds = gradlab.open_results(results / "grid.h5")

    def told(name, target, tf):
        one = ds.sel(tf=tf, tb=2.5, target=target)
        return rounding.written(*(float(one[name + end]) for end in ("", "_low", "_high")))

    def numbers(text):
        value, interval = re.search(r"(\S+), interval (\[.*\])", text).groups()
        return f"{value} {interval}"

    assert found["shown"]
    assert found["tipShown"]
    assert found["hover"] == found["tip"]
    assert found["hover"].startswith("tf = 1, tb = 2.5: relative bias")
    assert numbers(found["hover"]) == told("relative_bias_debiased", "sampled", 1.0)
    assert found["focus"].startswith("tf = 1, tb = 2.5: cosine")
    assert numbers(found["focus"]) == told("cosine_debiased", "model", 1.0)
    assert numbers(found["right"]) == told("cosine_debiased", "model", 1.6)
    assert found["stops"] == 1
    value = told("relative_bias_debiased", "sampled", 1.0).split()[0]
    three = f"{float(ds.relative_bias_debiased.sel(tf=1.0, tb=2.5, target='sampled')):#.3g}"
    assert found["inCell"] == min(value, three, key=len)


@needs_browser
def test_what_a_file_says_is_text(tmp_path):
    """Attributes, names, units and errors cannot become markup or script; everything asked of the page still works."""
    page = tmp_path / "report.html"
    gradlab.report(hostile(), page)
    script = """
      document.querySelector('thead button').click();
      document.querySelector('.cells td').focus();
      return JSON.stringify([document.title, document.querySelectorAll('img').length, document.scripts.length,
        document.body.textContent.includes('<script>document.title')]);
    """
    title, images, scripts, there = json.loads(opened(page, script, tmp_path))
    assert title.startswith("gradlab:")
    assert there
    assert images == page.read_text().count("<img alt=")
    assert scripts == 3  # the grid's data, the page's own, the test's


def hostile():
    grid = {"tf": [0.5, 1.0], "tb": [0.5, 1.0], "estimator": [HOSTILE, "b"]}
    shape = tuple(map(len, grid.values()))
    named = {"long_name": HOSTILE, "units": HOSTILE, "aggregation": HOSTILE}
    values = np.arange(8.0).reshape(shape) + 1
    lead = "relative_bias_debiased"
    parts = {lead: (tuple(grid), values, named), f"{lead}_low": (tuple(grid), values - 1, named)}
    parts["cosine"] = (tuple(grid), values / 10, named)
    said = ("checkpoint", "data", "loss", "unit", "latents", "target", "reference", "intervals")
    about = dict.fromkeys(said, HOSTILE)
    return xr.Dataset(parts, grid, about | {"analysis": "bias", HOSTILE: HOSTILE, "estimator": "no json"})


@needs_browser
def test_a_hint_says_that_a_table_scrolls_where_it_does(page_of, tmp_path):
    script = """
      const hint = document.querySelector('p.scrolls'), frame = hint.nextElementSibling;
      const hiddenWith = (style) => {
        Object.assign(frame.style, style);
        window.dispatchEvent(new Event('resize'));
        return hint.hidden;
      };
      return JSON.stringify([hiddenWith({maxHeight: 'none', width: '5000px', maxWidth: 'none'}),
        hiddenWith({maxHeight: '50px'}), hiddenWith({maxHeight: 'none', width: '50px'})]);
    """
    assert json.loads(opened(page_of("grid"), script, tmp_path)) == [True, False, False]


@needs_browser
def test_several_results_stand_on_one_page_without_an_error(page_of, tmp_path):
    page = page_of(*NAMES)
    script = """
      return JSON.stringify([[...document.images].map((image) => image.naturalWidth),
        document.querySelectorAll('section').length, document.querySelectorAll('.heatmap:not([hidden])').length]);
    """
    widths, sections, heatmaps = json.loads(opened(page, script, tmp_path))
    assert sections == len(NAMES)
    assert len(widths) >= len(NAMES)
    assert min(widths) > 300
    assert heatmaps == 3  # of grid, gap and sweep


# --- the page as text ---


class Page(HTMLParser):
    """Open elements, links to elsewhere, and texts outside of scripts."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.addresses, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "srcset")]
        if tag not in ("meta", "img", "br"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.stack):
            self.texts.append(data)


def test_a_page_reads_without_script_and_asks_for_nothing(results, page_of):
    text = page_of(*NAMES).read_text(encoding="utf-8")
    page = Page(text)
    assert page.stack == []
    assert len(page.addresses) >= 2 * len(NAMES)
    assert all(address.startswith(("data:image/", "#result-")) for address in page.addresses)
    assert "url(" not in text
    assert "@import" not in text
    read = " ".join(page.texts)
    for name in NAMES:
        ds = gradlab.open_results(results / f"{name}.h5")
        assert [value for value in map(plain, ds.attrs.values()) if str(value) not in read] == []
        if name != "sweep":
            name = first_metrics(ds)[0]
            ds = upgraded(ds)
            largest = max(estimates_at(ds, name, places(ds, [name])))
            assert prose.written(largest) in read
            assert prose.sureness(ds) in read
            assert "unbiased reference" not in " ".join([prose.headline(ds), *prose.subject(ds)])


def test_a_large_result_gives_a_page_of_bounded_size_that_says_what_it_leaves_out(tmp_path):
    side, checkpoints = 110, 1000
    t = np.linspace(0.3, 3, side)
    rng = np.random.default_rng(0)
    grid = xr.Dataset(
        {name: (("tf", "tb"), rng.uniform(0.1, 2, (side, side)), {"units": "1"}) for name in FIGURES},
        {"tf": t, "tb": t},
        {"analysis": "bias", "estimator": '"ste"', "long": "x" * 10_000_000},
    )
    of_each = ("checkpoint", "tf", "tb")
    many = xr.Dataset(
        {name: (of_each, rng.uniform(0.1, 2, (checkpoints, 1, 1)), {"units": "1"}) for name in FIGURES},
        {"checkpoint": [f"epoch{k:04}.safetensors" for k in range(checkpoints)], "tf": [1.0], "tb": [1.0]},
        {"analysis": "bias", "estimator": '"ste"'},
    )
    gradlab.report([grid, many], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(text) < 4_000_000
    for said in (
        "the table has 400 of 12,100 points, evenly spaced",
        "the heatmap has 100 of 110 tf, evenly spaced",
        "the table has 400 of 1,000 points, evenly spaced",
        "the figures have 24 of 1,000 checkpoints, evenly spaced",
        "10,000,000 letters in all",
    ):
        assert said in text


# --- results of other analyses ---


def without_exact_gradient():
    """Against a sampled reference: no relative_bias, bias_norm or gradients, and whether bias is resolved."""
    rng = np.random.default_rng(1)
    dims = ("estimator", "tf", "tb")
    values = {n: rng.uniform(0.2, 0.9, (2, 4, 4)) for n in ("relative_bias_debiased", "cosine", "matched_bias")}
    parts = {n + end: (dims, v + by, {"units": "1"}) for n, v in values.items() for end, by in ENDS.items()}
    parts["resolved"] = (dims, np.ones((2, 4, 4), int), {"units": "1"})
    grid = {"estimator": ["ste", "st-gs"], "tf": [0.5, 1.0, 1.5, 2.0], "tb": [0.5, 1.0, 1.5, 2.0]}
    parts["draws"] = ("tf", [64.0, 64.0, 128.0, 64.0], {"units": "1"})
    about = {"reference": "rloo", "estimator": '["ste", "st-gs"]', "intervals": "95 %, U-statistic"}
    more = {"latents": 12, "categories": 16, "loss": "bernoulli", "unit": "nats", "checkpoint": "c", "data": "d"}
    return xr.Dataset(parts, grid, {"analysis": "bias", "examples": 3, "target": "sampled"} | about | more)


def by_parameter():
    ds = without_exact_gradient().isel(tf=[0], tb=[0])
    of_each = ds.expand_dims(parameter=["all", "0.weight"]).assign_attrs(wrt="encoder")
    return of_each.assign_coords(entries=("parameter", [12, 8]))


ENDS = {"": 0.0, "_low": -0.1, "_high": 0.1}


@pytest.mark.parametrize("made", [without_exact_gradient, by_parameter])
def test_results_without_exact_gradient_or_by_parameter_are_shown(made, run, tmp_path):
    ds = made()
    gradlab.save_results(ds, "other.h5")
    shown = run("show", "other.h5")
    assert shown.code == 0, shown.err
    said = " ".join(shown.out.split())
    assert "reference sampled by rloo" in said
    assert "numerical error" not in said
    assert ("64 to 128 draws" if ds.sizes["tf"] > 1 else "64 draws") in said
    json_points = json.loads(run("show", "other.h5", "--json").out)["points"]
    assert len(json_points) == ds.relative_bias_debiased.size
    assert run("report", "other.h5").code == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "reference sampled by rloo" in text
    assert all(str(name) in text for name in ds.get("parameter", ds.estimator).values)


# --- refusals ---


OLD = '<meta name="generator" content="gradlab 0.1.0">the old one'


def test_what_is_no_result_is_refused_in_one_line_and_the_old_page_stays(results, run, tmp_path):
    (tmp_path / "report.html").write_text(OLD)
    whole = (results / "gap.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "foreign.h5", engine="h5netcdf")
    xr.Dataset({"a": ("x", [1.0])}, attrs={"analysis": "bias"}).to_netcdf(tmp_path / "empty.h5", engine="h5netcdf")
    xr.Dataset({"a": ("x", [1.0])}, attrs={"analysis": "sweep"}).to_netcdf(tmp_path / "sweep.h5", engine="h5netcdf")
    (tmp_path / "text.h5").write_text("no HDF5")
    for name in ("cut.h5", "foreign.h5", "empty.h5", "sweep.h5", "text.h5", "missing.h5"):
        ran = run("report", results / "gap.h5", name)
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1), (name, ran)
        assert name in ran.err
        assert (tmp_path / "report.html").read_text() == OLD
    assert run("report").code == 2
    assert run("report", "cut.h5", "--out", "cut.h5").code == 2


def test_a_full_disk_leaves_the_old_page(results, run, tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text(OLD)

    def full(self, *given, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    ran = run("report", results / "gap.h5")
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert "No space left" in ran.err
    assert (tmp_path / "report.html").read_text() == OLD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html"]


# --- words ---


def test_the_headline_says_where_least_and_greatest_lie():
    ds = without_exact_gradient()
    values = ds.relative_bias_debiased
    text = prose.headline(ds)
    for end in (values.min(), values.max()):
        place = values.where(values == end, drop=True)
        where = f"({place.estimator.item()}, tf {place.tf.item():g}, tb {place.tb.item():g})"
        figure = points.Estimate(end.item(), end.item() - 0.1, end.item() + 0.1)
        assert f"{prose.written(figure)} {where}" in text
    assert "No bias is resolved" not in text


def test_a_bias_whose_interval_holds_0_is_not_called_one():
    ds = without_exact_gradient()
    ds["relative_bias_debiased_low"] = -ds.relative_bias_debiased
    assert "No bias is resolved at 32 of them" in prose.headline(ds)
    assert "no bias resolved" in prose.headline(ds.isel(estimator=[0], tf=[0], tb=[0]))


@pytest.mark.parametrize(("count", "most"), [(5, 9), (9, 9), (1000, 24), (3, 2), (7, 1)])
def test_evenly_keeps_the_ends(count, most):
    kept = points.evenly(count, most)
    assert len(kept) == min(count, most)
    assert kept == sorted(set(kept))
    assert kept[0] == 0
    assert kept[-1] == count - 1 or most == 1
    assert max(np.diff(kept), default=1) - min(np.diff(kept), default=1) <= 1
