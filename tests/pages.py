"""Pages run as written: the blocks of README.md and docs/*.md, and what the pages show of their output.

Fences of a page, in order and in one empty folder, one namespace:

    python     run; a `text` fence right after it holds what it prints; one with title="NAME.py" is written to that
               file, for later blocks to import
    console    lines that begin with `$ ` are gradlab commands, run; the lines below them are what they print
    sh         gradlab commands that take too long or need data: their options are parsed, nothing runs

A line `...` of shown output stands for any lines. Pictures figures/NAME.png of a page are files its blocks write.

Numbers of the prose are tied to where they come from by comments, which no reader sees. A number here has a decimal
point, an exponent or a percent sign. A number that is in code or in a command of the page is an input and needs no
comment.

    <!-- numbers                          in the section of the numbers: lines `TEXT = EXPRESSION`, evaluated in the
    0.96 = float(ds.cosine)               namespace of the blocks above and compared with TEXT; `86 %` is 0.86; a
    1.2 [1.1, 1.3] = ends(ds)             TEXT of several numbers takes an expression of as many; other lines run.
    -->                                   results(FILE) is the path of a file of analyses/results, and
                                          effect(NAME, FILE, CLAIM, METRIC, ...) the value and interval that
                                          `gradlab reproduce NAME --from FILE` judges (verdict(...): all about it)
    <!-- numbers as in docs/PAGE.md -->   every number of the section stands on that page too, with its interval
    <!-- measured: COMMAND -->            numbers of the section that take hours or another machine
    <!-- given: NUMBERS -->               numbers of the page that are nobody's output: a paper's, a constant's

    python -m tests.pages [PAGE...]    run pages, write what they print and draw into them
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import re
import shlex
import shutil
import sys
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```([a-z]*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
FIGURE = re.compile(r"\]\(((?:docs/)?figures/([^)]+))\)")
COMMENT = re.compile(r"^<!-- numbers\n(?P<source>.*?)^-->$", re.MULTILINE | re.DOTALL)
CLAIM = re.compile(r"^(?P<text>[-+]?\[?\d[-+\d.,e %\[\]]*) = (?P<expression>.*)$")
TIED = re.compile(r"<!-- (?P<kind>numbers as in|measured:|given:) (?P<what>.*?) -->", re.DOTALL)
POINT = re.compile(r"\bt[fb]=(\[?[\d., ]+)")  # temperatures at which an expression is evaluated
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
# a number of the prose that needs an origin, with its interval if it has one
VALUE = re.compile(
    r"[-+]?(?<![\w.])\d[\d,]*(?:\.\d+(?:e-?\d+)?|e-?\d+)?(?: \[[-+\d.,e ]+\])"
    r"|(?<![\w.])\d[\d,]*(?:\.\d+(?:e-?\d+)?|e-?\d+)(?!\.?\d)|(?<![\w.])\d+ %"
)
NAMES = (
    r"(?:arXiv|[Ss]ections?|[Aa]ppendix|Python|torch|gradlab) v?[A-Z\d][\d.]*|\b95 %"  # and the level of all intervals
)
TOLERANCE = 0.02  # of a printed number: another machine rounds otherwise, and the odd draw takes another code
ELLIPSIS = "..."


@dataclass(frozen=True)
class Shown:
    """Something that runs, and the output the page shows of it at `span` of its text; None where it shows none."""

    kind: str
    source: str
    output: str | None
    span: tuple[int, int]
    file: str | None = None


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shown(text: str) -> list[Shown]:
    """What a page runs, in order."""
    return sorted([*_blocks(text), *_comments(text)], key=lambda one: one.span[0])


def _comments(text: str) -> list[Shown]:
    """The comments of numbers; each is to print its own claims."""
    found = []
    for comment in COMMENT.finditer(text):
        claims = [line for line in comment["source"].splitlines() if CLAIM.match(line)]
        found.append(Shown("numbers", comment["source"], "\n".join(claims), comment.span("source")))
    return found


def _blocks(text: str) -> list[Shown]:
    found = []
    fences = list(FENCE.finditer(text))
    for fence, after in itertools.zip_longest(fences, fences[1:]):
        language, source = fence[1], fence["source"]
        if language == "python":
            is_output = after and after[1] == "text" and not text[fence.end() : after.start()].strip()
            span, output = (after.span("source"), after["source"]) if is_output else ((fence.end(), fence.end()), None)
            found.append(Shown(language, source, output, span, fence["title"]))
        elif language == "console":
            for command in COMMAND.finditer(source):
                start, end = (fence.start("source") + at for at in command.span(2))
                found.append(Shown(language, command[1].replace("\\\n", ""), command[2], (start, end)))
    return found


def listed(text: str) -> list[str]:
    """gradlab commands a page gives without running them."""
    blocks = [fence["source"].replace("\\\n", " ") for fence in FENCE.finditer(text) if fence[1] in ("", "sh")]
    return [line for block in blocks for line in block.splitlines() if line.startswith("gradlab ")]


def check_options(command: str) -> None:
    """UsageError unless the command line of `gradlab` takes these arguments."""
    from gradlab.cli.main import cli

    context, found, rest = click.Context(cli, info_name="gradlab"), cli, shlex.split(command, comments=True)[1:]
    while isinstance(found, click.Group) and rest:
        name, found, rest = found.resolve_command(context, rest)
        if not isinstance(found, click.Group):
            found.make_context(name, list(rest), parent=context)


def run(page: Path) -> list[tuple[Shown, str]]:
    """Runs a page in the current folder: what it shows, and what was printed.

    Raises what a block raises; AssertionError for a command that does not end with 0.
    """
    from gradlab.estimators import registry

    before, path, known = set(sys.modules), list(sys.path), dict(registry._CLASSES)
    sys.modules["page"] = module = types.ModuleType("page")  # where dataclasses look their types up
    sys.path.insert(0, str(Path.cwd()))
    try:
        return [(one, _printed(one, module)) for one in shown(page.read_text())]
    finally:
        sys.path[:] = path
        registry._CLASSES.clear()
        registry._CLASSES.update(known)  # what a block registers is forgotten
        for name in {"page", *(Path(one.file).stem for one in shown(page.read_text()) if one.file)} - before:
            sys.modules.pop(name, None)


def _printed(one: Shown, module: types.ModuleType) -> str:
    from gradlab.cli.main import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if one.file:
            Path(one.file).write_text(one.source)
        elif one.kind == "numbers":
            _evaluate(one.source, module)
        elif one.kind == "python":
            exec(compile(one.source, "page", "exec"), module.__dict__)
        else:
            name, *arguments = shlex.split(one.source, comments=True)
            assert name == "gradlab", one.source
            code = 0
            try:
                main(arguments)
            except SystemExit as ended:
                code = ended.code
            assert not code, f"{one.source}: exit code {code}"
    return "".join(f"{line.rstrip()}\n" for line in printed.getvalue().strip("\n").splitlines())


def _evaluate(source: str, module: types.ModuleType) -> None:
    """Prints the claims of a comment with the values of their expressions; runs its other lines."""
    module.__dict__.update(results=results, effect=effect, verdict=verdict)
    for line in source.splitlines():
        claim = CLAIM.match(line)
        if claim is None:
            exec(compile(line, "numbers", "exec"), module.__dict__)
            continue
        values = np.ravel(eval(claim["expression"], module.__dict__)).astype(float)
        unit = 100 if "%" in claim["text"] else 1
        words = NUMBER.split(claim["text"])
        assert len(values) == len(words) - 1, line
        texts = [f"{unit * value:.9g}" for value in values]
        print("".join(itertools.chain(*zip(words, [*texts, ""], strict=True))), "=", claim["expression"])


def results(file: str) -> str:
    """The path of a file of analyses/results."""
    return str(ROOT / "analyses" / "results" / file)


def effect(*of: str, **which: str) -> list[float]:
    """Value and interval that an analysis judges; arguments of `verdict`."""
    return list(verdict(*of, **which)["change"].values())


def verdict(name: str, file: str, claim: str, metric: str, **which: str) -> dict:
    """What an analysis says of a file of results: on the claim that begins with `claim`, for one metric."""
    named = {key.replace("_", " "): value for key, value in which.items()}
    matching = [
        one
        for one in _judged(name, results(file))
        if one["claim"].startswith(claim) and one["metric"] == metric and named.items() <= one.items()
    ]
    assert len(matching) == 1, (claim, metric, which, len(matching))
    return matching[0]


@functools.cache
def _judged(name: str, file: str) -> list[dict]:
    """The verdicts on a file of results, as `gradlab reproduce NAME --from FILE --json` gives them, without figures."""
    from gradlab.analyses import registry
    from gradlab.cli.studies import as_row, judged

    import gradlab

    return json.loads(json.dumps([as_row(one) for one in judged(registry.find(name), gradlab.open_results(file))]))


def untied(text: str) -> list[str]:
    """Numbers of a page's prose that no comment ties to their origin, and claims that the prose does not make."""
    inputs = {number for one in _blocks(text) for number in _numbers(one.source)}
    inputs |= {number for one in _comments(text) for place in POINT.findall(one.source) for number in _numbers(place)}
    inputs |= {number for command in listed(text) for number in _numbers(command)}
    ties = [(tie["kind"], tie["what"]) for tie in TIED.finditer(text)]
    inputs |= {number for kind, what in ties if kind == "given:" for number in _numbers(what)}
    found = []
    for section in re.split(r"^(?=#+ )", FENCE.sub("", text), flags=re.MULTILINE):
        claims = [line for comment in COMMENT.finditer(section) for line in comment["source"].splitlines()]
        texts = [claim["text"] for claim in map(CLAIM.match, claims) if claim]
        prose = _prose(section)
        found += [f"{one}: claimed, and not in the prose" for one in texts if one not in prose]
        kinds = {tie["kind"]: tie["what"] for tie in TIED.finditer(section)}
        if "measured:" in kinds:
            continue
        known = inputs | {number for one in texts for number in _numbers(one)}
        where = kinds.get("numbers as in")
        elsewhere = _prose((ROOT / where).read_text()) if where else ""
        found += [one for one in VALUE.findall(prose) if not (_known(one, known) or (where and one in elsewhere))]
    return found


def _known(value: str, known: set[str]) -> bool:
    return all(number in known for number in _numbers(value))


def _numbers(text: str) -> list[str]:
    return [number.lstrip("+-") for number in NUMBER.findall(text)]


def _prose(section: str) -> str:
    """A section without what is no prose: comments, code, targets of links, and numbers that are names."""
    for left_out in (r"<!--.*?-->", r"```.*?```", r"`[^`]*`", r"\]\([^)]*\)", NAMES):
        section = re.sub(left_out, " ", section, flags=re.DOTALL)
    return " ".join(section.split())


def difference(expected: str, printed: str) -> str | None:
    """The first line shown that was not printed so; numbers may be TOLERANCE off, or one in their last digit."""
    head, elided, tail = _parts(expected)
    lines = _lines(printed)
    if len(lines) < len(head) + len(tail) or (not elided and len(lines) > len(head)):
        return f"{len(head) + len(tail)} lines are shown, {len(lines)} were printed"
    for one, other in [*zip(head, lines, strict=False), *zip(tail[::-1], lines[::-1], strict=False)]:
        if not _alike(one, other):
            return f"shown: {one}\nprinted: {other}"
    return None


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _parts(text: str) -> tuple[list[str], bool, list[str]]:
    lines = _lines(text)
    if ELLIPSIS not in lines:
        return lines, False, []
    at = lines.index(ELLIPSIS)
    return lines[:at], True, lines[at + 1 :]


def _alike(one: str, other: str) -> bool:
    if NUMBER.sub("", one).split() != NUMBER.sub("", other).split():
        return False
    return all(_close(a, b) for a, b in zip(NUMBER.findall(one), NUMBER.findall(other), strict=True))


def _close(one: str, other: str) -> bool:
    a, b = (float(number.replace(",", "")) for number in (one, other))
    mantissa, _, exponent = one.replace(",", "").partition("e")
    last = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(a - b) <= max(TOLERANCE * max(abs(a), abs(b)), (1 + 1e-9) * last)


def refresh(page: Path) -> None:
    """Run a page and write into it what it prints, elided where it was, and its figures into figures/."""
    text = page.read_text()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for one, printed in reversed(run(page)):
            if one.output is not None and one.kind != "numbers":
                text = text[: one.span[0]] + _elided(one.output, printed) + text[one.span[1] :]
        for path, name in FIGURE.findall(text):
            _shrink(Path(name))
            shutil.copy(name, page.parent / path)
    page.write_text(text)


def _elided(before: str, printed: str) -> str:
    head, elided, tail = _parts(before)
    if not elided:
        return printed
    lines = printed.splitlines()
    starts = [k for k, line in enumerate(lines) if line.strip()]
    first = starts[len(head)] if head else 0
    last = starts[-len(tail)] if tail else len(lines)
    return "\n".join([*lines[:first], ELLIPSIS, *lines[last:]]) + "\n"


def _shrink(picture: Path) -> None:
    """A palette: a fifth of the bytes, no visible change to a plot."""
    from PIL import Image

    with Image.open(picture) as full:
        full.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)  # as in the tests
    for page in [Path(name).resolve() for name in sys.argv[1:]] or pages():
        refresh(page)
