"""A page in a real browser without a network: what its document holds after a script was run in it."""

import html
import re
import shutil
import subprocess

import pytest

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(EXECUTABLE is None, reason="no chromium, chromium-browser or google-chrome in PATH")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no network
    "--enable-logging=stderr",
    "--virtual-time-budget=5000",
]


def opened(page, script, folder):
    """What `script` returns in the page, as text; AssertionError if the page wrote to the console."""
    driven = folder / "driven.html"
    ending = (
        "<script>window.onload = () => { let said; try { said = String((() => {" + script + "})()); }"
        " catch (error) { said = 'threw ' + error; }"
        " document.body.append(Object.assign(document.createElement('pre'), {id: 'said', textContent: said})); };"
        "</script></body>"
    )
    source = page.read_text(encoding="utf-8")
    assert source.count("</body>") == 1
    driven.write_text(source.replace("</body>", ending), encoding="utf-8")
    profile = folder / "profile"
    profile.mkdir(exist_ok=True)
    ran = subprocess.run(
        [EXECUTABLE, *OPTIONS, f"--user-data-dir={profile}", "--dump-dom", driven.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    console = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    found = re.search(r'<pre id="said">(.*?)</pre>', ran.stdout, re.DOTALL)
    assert found, ran.stderr[-2000:]
    return html.unescape(found[1])
