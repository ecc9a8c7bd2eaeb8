"""Atomic writing, plain reading and hashing of files, with a remedy for every refusal of the system."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark.errors import FileError

_REMEDIES = {
    errno.ENOSPC: "free some space on the disk, or write to another one",
    errno.EDQUOT: "free some of your quota, or write somewhere else",
    errno.EFBIG: "the limit for the size of files is reached; raise it (ulimit -f) or write elsewhere",
    errno.EROFS: "the file system is read-only; choose another output folder",
    errno.EACCES: "check the permissions of the folder, or choose another one",
    errno.EPERM: "check the permissions of the folder, or choose another one",
    errno.ENOENT: "check the spelling of the path",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another path",
    errno.EISDIR: "a folder stands where a file is needed; choose another path",
}


def file_error(action: str, path: Path, error: OSError) -> FileError:
    """The error for a failed ``action`` ("read", "write") on ``path``, with the remedy for its cause."""
    remedy = _REMEDIES.get(error.errno or 0, "check the path and the disk")
    return FileError(f"cannot {action} {path}", found=error.strerror or str(error), remedy=remedy)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is renamed to ``path``, on failure it is removed.

    Missing parent folders are made. The content is flushed to the disk before the rename, so that a crash
    leaves the old file or the new one, never a part. Raises ``FileError`` where the system refuses.
    """
    target = Path(path)
    if target.exists() and not target.is_file() and not target.is_dir():
        raise FileError(
            f"cannot write {target}",
            found="a device or a pipe, which a rename would replace",
            remedy="give the name of a file",
        )
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        raise file_error("write", target, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN is refused (write ``null`` for "not defined")."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_bytes(path: Path | str) -> bytes:
    """The content of a file; raises ``FileError`` where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise file_error("read", Path(path), error) from error


def read_json(path: Path | str) -> Any:
    """Parse a JSON file; raises ``FileError`` naming line and column of a defect."""
    try:
        return json.loads(read_bytes(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileError(
            "not valid JSON", where=path, found=error, remedy="the file is damaged: make it anew"
        ) from None


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's content as 64 hexadecimal digits."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise file_error("read", Path(path), error) from error
