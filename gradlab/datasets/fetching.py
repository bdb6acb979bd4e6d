"""Download of the known data sets. A file gets its final name after its checksum is verified."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from .. import errors, files
from ..progress import bar
from . import bounded, finding, loading
from .sources import SOURCES


def fetch(name: str, folder: str | Path | None = None, mirror: str | None = None, progress: bool = False) -> list[Path]:
    """Downloads the missing files of a known data set and returns the files of all splits.

    A download is verified before it gets its final name. A file that holds both splits is listed once.

    Parameters
    ----------
    name : name of a known data set
    folder : where data sets are stored; `default_folder()` if None
    mirror : address that replaces the address of the data set's folder
    progress : show a progress bar on standard error if it is a terminal

    Raises
    ------
    ValueError
        An unknown name, or a mirror that is not an http address.
    BadFile, a ValueError
        A download or an existing file with the wrong checksum.
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
        raise ValueError(f"mirror: expected an address that begins with http:// or https://, got {mirror!r}")
    paths: list[Path] = []
    for one in loading.check(name, folder):
        target = finding.folders(name, folder)[0] / SOURCES[name].file(one.split)
        if one.fault and one.path not in (None, target):
            raise errors.BadFile(f"{one.fault}; remove or rename this file, because a download does not replace it")
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
                        raise errors.BadFile(f"{url}: expected at most {bounded.MOST_BYTES:,} bytes, got more")
                    file.write(piece)
                    advance(len(piece))
    except requests.RequestException as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, requests.ConnectionError):  # whose text is some 300 characters of objects
            reason = f"the connection to {urlsplit(url).netloc} failed"
        raise OSError(f"{url}: download failed ({reason}); try again or use another mirror") from None
