"""What the build of the documentation adds: the figures of analyses/, and the line breaks of help texts."""

import os
import re
from pathlib import Path

from mkdocs.structure.files import File

ANALYSES = Path(__file__).parent.parent / "analyses"


def on_startup(command, dirty):
    os.environ["COLUMNS"] = "100"  # of the options of commands


def on_files(files, config):
    for path in sorted(ANALYSES.glob("*.png")):
        files.append(File.generated(config, f"analyses/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Pages name figures as they lie in the repository."""
    return markdown.replace("](../analyses/", "](analyses/")


def on_page_content(html, page, config, files):
    """Help texts set their examples on lines of their own, indented; HTML would join them."""
    if page.file.src_uri != "commands.md":
        return html
    html = re.sub(r"\n  (gradlab [^\n<]*)", r"<br><code>\1</code>", html)
    return re.sub(r"</code>\n(?=[A-Z])", "</code><br>", html)
