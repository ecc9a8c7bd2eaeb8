"""SHA-256 of source files, cached by size and modification time, so that gigabytes are read only once."""

from contextlib import suppress
from functools import cache
from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.files import file_error, read_json, sha256_file, write_json
from benchmark.recipes.paths import work_folder

MEMORY = "hashes.json"


def file_hash(path: Path) -> str | None:
    """64 hexadecimal digits of a file's content; None if there is no such file.

    Raises ``FileError`` if it cannot be read.
    """
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise file_error("read", path, error) from error
    return _hash(str(path.resolve()), state.st_size, state.st_mtime_ns, work_folder() / MEMORY)


@cache
def _hash(path: str, size: int, changed: int, memory: Path) -> str:
    known = _read(memory).get(path)
    if known is not None and known[:2] == [size, changed]:
        return str(known[2])
    found = sha256_file(path)
    if memory.parent.parent.is_dir():  # computing a key must not create a results folder
        with suppress(BenchmarkError):  # if results cannot be written, the file is read again next time
            write_json(memory, _read(memory) | {path: [size, changed, found]})
    return found


def _read(memory: Path) -> dict[str, list[int | str]]:
    try:
        content = read_json(memory)
    except BenchmarkError:
        return {}  # missing or damaged
    return content if isinstance(content, dict) else {}
