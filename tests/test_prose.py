"""Plain English: no banned turn of phrase in code, documentation or messages; messages read "name: expected, got"."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("gradlab", "cli", "analyses", "examples", "docs", "data")
FILES = sorted(
    path.relative_to(ROOT)
    for path in [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*"))]
    if path.suffix in (".py", ".md")
)
BANNED = (  # hard to read for whoever learnt English as a second language; with what to write instead
    (r"would do\b", "expected ..."),
    (r"\bwill (not )?do\b", "invalid, or: is enough"),
    (r"\b(is|are|be|was|were) had\b", "is available, has"),
    (r"\bhad from\b", "computed from"),
    (r"\b(one|somebody|nobody)'s own\b", "your own"),
    (r"\bas (many|much) (?!as\b)[\w-]+( [\w-]+){0,3} as\b", "the number of ... that"),
    (r"\b(of )?so (many|much)\b", "the number"),
    (r"\bsuch as (have|are|is|has)\b", "those that have"),
    (r"\b(comes?|came) to an end\b", "ends, times out"),
    (r"\bwhat silently\b", "detects what"),
    (r"\bdearest\b", "most expensive"),
    (r"\banew\b", "again"),
    (r"\bg(oes|o|one|oing) on (from|with)\b", "continues"),
    (r"\b(may|to|must) stand there\b", "is allowed"),
    (r"\bwhat came\b", "the value"),
    (r"\bis there twice\b", "occurs twice"),
    (r"\bbe told (apart )?from\b|\btells? apart\b|\btold apart\b", "distinguish"),
    (r"\bno one else\b|\bnobody\b|\bsomebody\b", "users, other processes"),
    (r"\bstranger", "foreign, third-party"),
    (r"\ball but (?!one\b|the\b)", "almost"),
    (r"\b(fall|rise)s? with the one\b|\bwith the one and\b", "name the thing"),
    (r"\bwhat else\b", "further, other"),
)
TODO: set[str] = set()  # files whose prose is still to be rewritten
CHECKED = {"ValueError", "TypeError", "BadFile", "SpaceTooLarge", "Refused"}  # other errors have the system's words


def _text(path: Path) -> str:
    """What a person reads: of Markdown without code and outputs, of Python with comments and strings."""
    text = (ROOT / path).read_text()
    if path.suffix == ".md":
        text = re.sub(r"^```.*?^```$|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
    return " ".join(re.sub(r"\n\s*#? *|\"\s*\n?\s*f?\"", " ", text).split())


def _banned(text: str) -> list[str]:
    found = [(match, instead) for phrase, instead in BANNED for match in re.finditer(phrase, text, re.IGNORECASE)]
    return [f"...{text[max(0, m.start() - 40) : m.end() + 30]}... (write: {instead})" for m, instead in found]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_banned_turn_of_phrase(path):
    found = _banned(_text(path))
    assert str(path) in TODO or not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "tf: got -1; a finite number above 0 would do",
        "values that will not do",
        "the gradient that is had for nothing",
        "observations of one's own",
        "as many draws as one draw of the dearest estimator pays for",
        "The first so many of the test split.",
        "reading it does not come to an end",
        "What silently falsifies every figure",
        "the same command goes on from the last epoch",
    ],
)
def test_banned_turns_of_phrase_are_found(text):
    assert _banned(text)


def _raised(tree: ast.Module) -> list[tuple[int, str]]:
    """Line and text of every error of CHECKED that is raised with a message. Variables in it become their texts."""
    assigned: dict[str, str] = {}
    for node in ast.walk(tree):
        texts = isinstance(node, ast.Assign) and isinstance(node.value, ast.JoinedStr | ast.Constant | ast.IfExp)
        if texts and isinstance(node.targets[0], ast.Name):
            assigned[node.targets[0].id] = assigned.get(node.targets[0].id, "") + _literal(node.value, {})
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            called, message = node.exc.func, node.exc.args[0]
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in CHECKED and isinstance(message, ast.JoinedStr | ast.Constant):
                found.append((node.lineno, _literal(message, assigned)))
    return found


def _literal(node: ast.expr, assigned: dict[str, str]) -> str:
    parts = []
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            parts.append(part.value)
        elif isinstance(part, ast.Name):
            parts.append(assigned.get(part.id, ""))
    return " ".join(parts)


def _unusual(text: str) -> bool:
    """Whether a message is not of the form; what only adds a cure to another error's message ("; ...") is."""
    return (
        bool(text.strip(" :()"))
        and not text.startswith("; ")
        and not (re.search(r"\bexpected\b", text) and re.search(r"\bgot\b", text))
    )


MODULES = [path for path in FILES if path.suffix == ".py"]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_messages_say_what_was_expected_and_what_was_given(path):
    raised = _raised(ast.parse((ROOT / path).read_text()))
    found = [f"{path}:{line}: {text}" for line, text in raised if _unusual(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "unusual"),
    [
        ('raise ValueError(f"tf: got {tf}; a number above 0 is needed")', True),
        ('raise errors.BadFile(f"{path}: no checkpoint")', True),
        ('raise ValueError(f"tf: expected a number above 0, got {tf}")', False),
        ('raise ValueError("draws: expected at least 2," f" got {draws}")', False),
        ('raise OSError("no space left")', False),
        ("raise ValueError(message)", False),
        ('kind = "expected a file, got a folder"\nraise ValueError(f"{path}: {kind}")', False),
        ('raise ValueError(f"{error}; give another")', False),
    ],
)
def test_unusual_messages_are_found(source, unusual):
    assert any(_unusual(text) for _, text in _raised(ast.parse(source))) == unusual
