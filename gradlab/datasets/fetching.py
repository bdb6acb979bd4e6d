"""Downloads of the known data sets, checked before they take their names."""

from __future__ import annotations

from pathlib import Path

from .. import errors, files
from ..progress import bar
from . import bounded, finding, loading
from .sources import SOURCES


def fetch(name: str, folder: str | Path | None = None, mirror: str | None = None, progress: bool = False) -> list[Path]:
    """Download what `load` would not find of a known data set, check it, and return the files of all splits.

    A download is checked before it takes its final name; a file that holds both splits is there once.
    `mirror` replaces the address of the data set's folder; `progress` draws a progress bar on standard error
    where that is a terminal.

    Raises
    ------
    ValueError
        An unknown name, or a mirror that is no http address.
    BadFile, a ValueError
        Content that does not match its checksum, downloaded or (not from a download) already there.
    OSError
        The network fails or the file cannot be written.

    Examples
    --------
    >>> paths = gradlab.datasets.fetch("mnist")  # doctest: +SKIP
    """
    if not finding.known(name):
        raise errors.unknown_name("data", name, SOURCES)
    base = (mirror or SOURCES[name].url).rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise ValueError(f"mirror: got {mirror!r}; give an address that begins with http:// or https://")
    paths: list[Path] = []
    for one in loading.check(name, folder):
        target = finding.folders(name, folder)[0] / SOURCES[name].file(one.split)
        if one.fault and one.path not in (None, target):
            raise errors.BadFile(f"{one.fault}; remove or rename this file, a download would not replace it")
        if one.fault and target not in paths:
            with files.written_aside(target) as aside:
                _download(f"{base}/{target.name}", aside, progress)
                loading.prove(name, one.split, aside, f"{base}/{target.name}")
        paths.append(target if one.path is None else one.path)
    return list(dict.fromkeys(paths))


def _download(url: str, path: Path, progress: bool) -> None:
    import requests

    try:
        with requests.get(url, stream=True, timeout=30) as response, open(path, "wb") as file:
            response.raise_for_status()
            announced = response.headers.get("Content-Length", "")
            total = int(announced) if announced.isdigit() else 0
            done = 0
            with bar(url.rpartition("/")[2], total, progress) as advance:
                for piece in response.iter_content(bounded.CHUNK):
                    done += len(piece)
                    if done > bounded.MOST_BYTES:
                        raise errors.BadFile(f"{url}: more than {bounded.MOST_BYTES:,} bytes, no such data set")
                    file.write(piece)
                    advance(len(piece))
    except requests.RequestException as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OSError(f"{url}: cannot be downloaded ({reason}); try again, or another mirror") from None
