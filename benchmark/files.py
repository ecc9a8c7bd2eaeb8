"""Atomic writing, locks, reading and hashing of files; errors of the system come with a remedy."""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout, lock_descriptor

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


ABANDONED = 24 * 3600.0
"""Seconds without a change after which a temporary file of another machine counts as abandoned."""

LOCK_WAIT = 5.0
"""Seconds to wait for a lock, whose holder may be about to end."""

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems that have no locks; the work is then done without a lock."""


def file_error(action: str, path: Path, error: OSError) -> FileError:
    """The error for a failed ``action`` ("read", "write") on ``path``, with the remedy for its cause."""
    remedy = _REMEDIES.get(error.errno or 0, "check the path and the disk")
    return FileError(f"cannot {action} {path}", found=error.strerror or str(error), remedy=remedy)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is renamed to ``path``, on failure it is removed.

    Creates missing parent folders. The content is flushed to the disk before the rename, so a crash leaves
    either the old or the new file, never a part. Temporary files of killed processes are removed. Raises
    ``FileError`` if the system reports an error.
    """
    target = Path(path)
    if target.exists() and not target.is_file() and not target.is_dir():
        raise FileError(
            f"cannot write {target}",
            found="a device or a pipe, which the rename would replace",
            remedy="give the name of a regular file",
        )
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=temporary_prefix(target), suffix=".tmp")
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


def temporary_prefix(target: Path) -> str:
    """Prefix of the names of this process's temporary files beside ``target``; they end in ``.tmp``."""
    return f".{target.name}.{socket.gethostname()}-{os.getpid()}."


def remove_abandoned(target: Path) -> None:
    """Remove the temporary files and folders beside ``target`` whose process has ended."""
    names = re.compile(rf"\.{re.escape(target.name)}\.(.+)-(\d+)\.[^.]+\.tmp")
    for path in target.parent.iterdir():
        match = names.fullmatch(path.name)
        if match is None:
            continue
        try:
            here = match[1] == socket.gethostname()
            if (here and not is_alive(int(match[2]))) or time.time() - path.stat().st_mtime > ABANDONED:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except FileNotFoundError:
            pass  # another process has renamed or removed it meanwhile


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class BusyError(FileError):
    """Another process is making the same output."""


@contextmanager
def exclusive(lock: Path, output: Path) -> Iterator[None]:
    """Lock the file ``lock`` inside the block: only one process at a time makes ``output``.

    The lock ends with the process, even if that is killed, is valid across machines if the file system
    supports it, and is not inherited by child processes. The file contains the name of its holder and is
    removed at the end. Raises ``BusyError`` with this name if the lock is not free within ``LOCK_WAIT``.
    """
    held = FileLock(lock, LOCK_WAIT, fallback_to_soft=False, on_acquired=_name_holder)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout:
        raise BusyError(
            f"another process is making {output}",
            found=lock.read_text() if lock.is_file() else None,
            remedy="wait until it is done, or stop it, and run the command again",
        ) from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise file_error("write", output, error) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        held.release()


def _name_holder(handle: int) -> None:
    with suppress(OSError):  # on a full disk the lock is held without the name, and writing the output fails
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def is_locked(lock: Path) -> bool:
    """Whether a process holds ``exclusive(lock)``."""
    try:
        with lock.open("r+b" if os.access(lock, os.W_OK) else "rb") as file:
            return not lock_descriptor(file.fileno(), blocking=False)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno not in _WITHOUT_LOCKS


def remove_abandoned_lock(lock: Path) -> None:
    """Remove the file of a lock whose holder was killed; without an effect while a process holds it."""
    if lock.is_file() and not is_locked(lock):
        lock.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN is refused (write ``null`` for "not defined")."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_bytes(path: Path | str) -> bytes:
    """The content of a file; raises ``FileError`` if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise file_error("read", Path(path), error) from error


def read_json(path: Path | str) -> Any:
    """Parse a JSON file; raises ``FileError`` with line and column of a syntax error."""
    try:
        return json.loads(read_bytes(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileError(
            "not valid JSON", where=path, found=error, remedy="the file is damaged: make it again"
        ) from None


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's content as 64 hexadecimal digits."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise file_error("read", Path(path), error) from error
