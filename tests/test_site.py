"""The documentation as a site: it builds without a warning, every link leads somewhere, nothing comes from outside."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}  # what a page fetches itself


class _Page(HTMLParser):
    """What a page loads, where it links to, and what can be linked to in it."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "id" in given:
            self.ids.add(given["id"])
        if tag in LOADED and given.get(LOADED[tag]):
            self.loads.append(given[LOADED[tag]])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stderr  # without --quiet, which hides warnings from --strict
    return folder


@pytest.fixture(scope="module")
def built(site):
    return {path: _Page(path.read_text()) for path in site.rglob("*.html")}


def _outside(url: str) -> bool:
    return bool(urlsplit(url).netloc)


def test_every_page_of_docs_is_built_and_in_the_navigation(site, built):
    names = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert {path.stem for path in built} == names | {"404"}
    home = {link.partition("#")[0] for link in built[site / "index.html"].links}
    assert {f"{name}.html" for name in names} <= home


def test_nothing_is_loaded_from_outside(site, built):
    assert [(path.name, url) for path, page in built.items() for url in page.loads if _outside(url)] == []
    for style in site.rglob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", style.read_text(), flags=re.DOTALL)
        urls = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]*)", text)
        assert [url for url in urls if _outside(url)] == [], style.name


def test_links_and_files_that_are_loaded_are_there(built):
    for path, page in built.items():
        if path.name == "404.html":  # served from any address, so its links are absolute
            continue
        for url in [*page.loads, *page.links]:
            if _outside(url) or url.startswith(("data:", "mailto:")):
                continue
            parts = urlsplit(url)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target = target / "index.html"
            assert target.is_file(), (path.name, url)
            if parts.fragment and target in built and url in page.links:
                assert unquote(parts.fragment) in built[target].ids | {"__skip"}, (path.name, url)


def _text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html))


def test_every_command_and_public_name_is_in_the_reference(site):
    from gradlab.cli.main import cli

    from gradlab import _HOME, plots, sweeps

    commands, names = (_text((site / page).read_text()) for page in ("commands.html", "api.html"))
    for name, command in cli.commands.items():
        for below in getattr(command, "commands", {"": None}):
            assert f"gradlab {name} {below}".strip() in commands
    drawn = [name for name in plots.__all__ if name not in ("FORMATS", "SIZES")]
    for name in (*_HOME, *drawn, *sweeps.__all__):
        assert re.search(rf"\b{name} ?\(", names), name


def test_examples_of_help_texts_keep_their_lines(site):
    html = (site / "commands.html").read_text()
    assert "<br><code>gradlab bias --tf 1.6 --tb 1.3 --moments exact --tolerance 1e-4 --out exact.h5</code>" in html
