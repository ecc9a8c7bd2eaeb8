"""Download of one file over HTTP: resumed after an interruption, checked, and only then renamed to its name.

Uses ``requests`` instead of ``urllib``, because it detects incomplete bodies, has timeouts for silent
servers, and handles certificates and proxies.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import requests
from filelock import lock_descriptor
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from benchmark.datasets.errors import DatasetError
from benchmark.files import file_error, sha256_file
from benchmark.progress import shows_bars
from benchmark.recipes.models import Archive

ATTEMPTS = 3  # attempts in a row without a new byte
PAUSE = 0.5  # seconds before the second attempt, doubled for the third
TIMEOUT = (10, 60)  # seconds to connect, and between two chunks
PIECE = 1 << 16  # bytes; a broken connection loses the last, incomplete one
LARGEST = 100 * 2**30  # bytes; limit for a file of unknown size


class DownloadError(DatasetError):
    """A file cannot be downloaded: no network, no such file, or a different file than announced."""


def download(archive: Archive, target: Path) -> None:
    """Download ``archive`` to ``target``; resumes from the file ``target``.part of an earlier call.

    A server without range requests sends everything again. A file with the wrong size or SHA-256 is removed.
    Raises ``DownloadError``, and keeps the part for the next call if the connection broke; ``FileError`` if
    the file cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file, _progress(archive) as report:
            if not lock_descriptor(file.fileno(), blocking=False):
                raise DatasetError(
                    "another process is fetching this file", where=part, remedy="wait until it has finished"
                )
            try:
                _fetch_checked(archive, file, part, report)
            except DownloadError:
                if file.tell() == 0:
                    part.unlink()
                raise
            os.fsync(file.fileno())
            part.replace(target)
    except OSError as error:
        raise file_error("write", target, error) from error


def _fetch_checked(archive: Archive, file: BinaryIO, part: Path, report: Callable[[int], None]) -> None:
    continued = file.tell() > 0
    _fetch(archive, file, report)
    defect = _defect(archive, part)
    if defect and continued:  # the part may belong to another file
        _empty(file)
        _fetch(archive, file, report)
        defect = _defect(archive, part)
    if defect:
        _empty(file)
        raise DownloadError(
            "the server sent a different file",
            where=archive.url,
            found=defect[0],
            expected=defect[1],
            remedy="try again; a proxy or a sign-in page of the network may have answered instead",
        )


def _defect(archive: Archive, path: Path) -> tuple[str, str] | None:
    """Found and expected value if size or checksum of a file differ from those of the archive; else None."""
    size = path.stat().st_size
    if archive.bytes is not None and size != archive.bytes:
        return f"{size} bytes", f"{archive.bytes} bytes"
    if archive.sha256 is not None and not (found := sha256_file(path)).startswith(archive.sha256):
        return f"SHA-256 {found}", f"SHA-256 {archive.sha256}"
    return None


def check_archive(archive: Archive, path: Path) -> None:
    """Raise ``DatasetError`` if a file that was put there by hand is not the archive."""
    if defect := _defect(archive, path):
        raise DatasetError(
            f"{path} is not the expected file",
            found=defect[0],
            expected=defect[1],
            remedy=f"remove it, or put {archive.url} there",
        )


def _fetch(archive: Archive, file: BinaryIO, report: Callable[[int], None]) -> None:
    """Append the missing bytes, over several connections if necessary."""
    most, failures = -1, 0
    while True:
        try:
            _continue(archive, file, report)
            return file.flush()
        except requests.RequestException as error:
            reason = reason_of(error)
            if error.response is not None and error.response.status_code < 500:
                raise _unreachable(archive, reason, file.tell()) from None
        failures = 0 if file.tell() > most else failures + 1
        most = max(most, file.tell())
        if failures == ATTEMPTS - 1:
            raise _unreachable(archive, reason, file.tell()) from None
        time.sleep(PAUSE * 2**failures)


def reason_of(error: requests.RequestException) -> str:
    """The cause of an error of ``requests``, without the description of the connection."""
    cause = getattr(error.args[0], "reason", error) if error.args else error
    return str(cause).rpartition("): ")[2]


def _continue(archive: Archive, file: BinaryIO, report: Callable[[int], None]) -> None:
    """Append bytes over one connection; errors of ``requests`` mean that another attempt may succeed."""
    start = file.seek(0, os.SEEK_END)
    if start == archive.bytes:
        return
    # with compression, bytes could not be counted
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(archive.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        place = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+)$", response.headers.get("Content-Range", ""))
        if response.status_code == 416 and place and int(place[2]) == start:
            return  # it was complete
        continues = response.status_code == 206 and place is not None and place[1] == str(start)
        if response.status_code == 416 or (response.status_code == 206 and not continues):
            _empty(file)
            raise requests.ConnectionError("the server cannot continue the file")
        response.raise_for_status()
        if continues and place is not None:
            total: int | None = int(place[2])
        else:
            _empty(file)
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
        if archive.bytes is not None and total is not None and total != archive.bytes:
            raise _other(archive, f"{total} bytes")
        limit = archive.bytes or LARGEST
        for piece in response.iter_content(PIECE):
            if file.tell() + len(piece) > limit:
                raise _other(archive, f"more than {limit} bytes")
            file.write(piece)
            report(file.tell())


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _other(archive: Archive, found: str) -> DownloadError:
    return DownloadError(
        "the server announces or sends another file",
        where=archive.url,
        found=found,
        expected=f"{archive.bytes} bytes" if archive.bytes else f"at most {LARGEST} bytes",
        remedy="fetch the file from elsewhere",
    )


def _unreachable(archive: Archive, reason: str, kept: int) -> DownloadError:
    return DownloadError(
        "the file could not be fetched",
        where=archive.url,
        found=reason,
        remedy=f"run the command again: it continues after the {kept} bytes that are there"
        if kept
        else "check the network, or fetch the file on another machine",
    )


@contextmanager
def _progress(archive: Archive) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere; called with the number of bytes so far."""
    console = Console(stderr=True)
    columns = (
        *Progress.get_default_columns()[:2],
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not shows_bars(console)) as progress:
        task = progress.add_task(archive.file_name, total=archive.bytes)
        yield lambda size: progress.update(task, completed=size)
