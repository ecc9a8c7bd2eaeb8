"""Extraction of untrusted zip archives: only into the target, and completely or not at all."""

import lzma
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from benchmark.datasets.errors import DatasetError
from benchmark.files import atomic_path, file_error

# Annotation files compress to a third, images not at all; zip bombs to a thousandth or less.
LARGEST_RATIO = 50
_SLACK = 2**20  # bytes; small archives of spaces and zeros are not bombs
_PIECE = 1 << 20


def extract_file(archive: Path, name: str, target: Path) -> None:
    """Unpack the one entry with the base name ``name`` to ``target``, atomically.

    Raises ``DatasetError`` for an archive that is damaged, hostile (see ``_entries``) or has no such entry,
    ``FileError`` for errors of the system.
    """
    with _opened(archive) as content:
        found = [
            entry
            for entry in _entries(archive, content)
            if PurePosixPath(entry.filename).name == name and not entry.filename.startswith("__MACOSX/")
        ]
        if len(found) != 1:
            raise _refusal(archive, f"{len(found)} files of the name {name}", "one")
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            _unpack(archive, content, found[0], file)


def extract_folder(archive: Path, name: str, target: Path) -> None:
    """Unpack everything below the entry ``name``/ as the folder ``target``, which must not exist or be empty.

    Raises as ``extract_file``.
    """
    with _opened(archive) as content:
        found = [
            (entry, PurePosixPath(entry.filename).relative_to(name))
            for entry in _entries(archive, content)
            if entry.filename.startswith(f"{name}/") and not entry.is_dir()
        ]
        if not found:
            raise _refusal(archive, f"no folder {name}", f"files below {name}/")
        temporary = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
            for entry, inside in found:
                path = temporary / inside
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    _unpack(archive, content, entry, file)
            os.sync()  # renaming a hundred thousand files one by one would take an hour
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o777 & ~umask)
            temporary.replace(target)
        except FileExistsError:
            raise _refusal(archive, "two entries with the same name", "different names") from None
        except OSError as error:
            raise file_error("write", target, error) from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as content:
            yield content
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        NotImplementedError,
        ValueError,
    ) as error:
        raise _refusal(archive, f"{error or 'an early end'}", "an undamaged zip archive") from None
    except OSError as error:
        raise file_error("read", archive, error) from error


def _entries(archive: Path, content: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """All entries. Refuses the archive if an entry leaves the folder, is a link, is encrypted or claims to be
    too large."""
    entries = content.infolist()
    for entry in entries:
        name = entry.orig_filename.replace("\\", "/")
        if re.match(r"/|[A-Za-z]:", name) or ".." in name.split("/") or "\0" in name or not name.strip("/."):
            raise _refusal(archive, f"the entry {entry.orig_filename!r}", "paths that stay inside the folder")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refusal(archive, f"the entry {entry.filename!r} is a link or a device", "plain files")
        if entry.flag_bits & 1:
            raise _refusal(archive, f"the entry {entry.filename!r} is encrypted", "plain files")
        # other methods may unpack any amount into memory
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refusal(archive, f"compression {entry.compress_type}", "stored or deflated files")
    claimed, limit = (
        sum(entry.file_size for entry in entries),
        LARGEST_RATIO * archive.stat().st_size + _SLACK,
    )
    if claimed > limit:
        raise _refusal(archive, f"{claimed} bytes when unpacked", f"at most {limit}")
    return entries


def _unpack(archive: Path, content: zipfile.ZipFile, entry: zipfile.ZipInfo, file: BinaryIO) -> None:
    """Copy an entry; the zip module checks its CRC at the end."""
    written = 0
    with content.open(entry) as source:
        while piece := source.read(_PIECE):
            written += len(piece)
            if written > entry.file_size:
                raise _refusal(
                    archive, f"more bytes in {entry.filename!r} than it claims", f"{entry.file_size}"
                )
            file.write(piece)
    if written != entry.file_size:
        raise _refusal(archive, f"{written} bytes in {entry.filename!r}", f"{entry.file_size}")


def _refusal(archive: Path, found: str, expected: str) -> DatasetError:
    return DatasetError(
        "the archive is damaged or not to be trusted",
        where=archive,
        found=found,
        expected=expected,
        remedy="remove it and fetch it again from its official address",
    )
