"""Status and provenance of one step: what ran, on what, how it ended. One JSON file beside each output."""

import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmark.cost import Cost, Meter, cost_of, cost_so_far, host_memory_mb
from benchmark.errors import BenchmarkError, FileError
from benchmark.files import (
    exclusive,
    file_error,
    is_locked,
    read_json,
    sha256_file,
    write_json,
)
from benchmark.recipes.paths import lock_path, progress_path, record_path

HASH_LIMIT = 64 * 2**20
"""Inputs of at most this many bytes are hashed."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "MemoryError")
"""What PyTorch, the GPU libraries and Python say when memory runs out."""

SILENCE = 600.0
"""Seconds without progress after which a step on a machine whose locks do not reach us is given up."""

PACKAGES = ("torch", "torchvision", "hotcoco", "numpy")
DISTRIBUTION = "longtail-bench"


class State(StrEnum):
    """How a step stands; all but ``running`` are final, and only ``done`` makes its output a result."""

    running = "running"
    done = "done"
    skipped = "skipped"
    failed = "failed"
    diverged = "diverged"
    timeout = "timeout"
    interrupted = "interrupted"


class StepRecord:
    """The open record of a step that is under way."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content
        self.meter = Meter()

    def add(self, **facts: Any) -> None:
        """Add facts that only the step knows (name of the GPU, images read...); values must fit into JSON."""
        self.content["facts"].update(facts)

    def use_gpus(self, gpus: Sequence[str]) -> None:
        """Say which GPUs the step uses, by UUID, so that their time and energy are counted."""
        self.content["gpus"] = list(gpus)
        self.meter.use(gpus)
        self._write()

    def _write(self) -> None:
        write_json(self.path, self.content)


@contextmanager
def record_step(
    output: Path, step: str, recipe: dict[str, Any], inputs: Mapping[str, Path]
) -> Iterator[StepRecord]:
    """Keep the record of ``step``, which makes ``output``, at ``record_path(output)``.

    The output is locked meanwhile: a second process with the same output gets a ``BusyError`` and leaves the
    record alone. It says ``running`` from the start, so that a killed process never looks finished. It ends
    as ``done``; on an exception as the exception's attribute ``state`` says (a diverged training carries
    ``diverged``), ``interrupted`` for Ctrl-C and exit status 3, else ``failed``. The exception propagates.

    ``recipe`` is what fixes the result, as JSON values; ``inputs`` are the files the step reads, by role.
    Durations are in seconds, memory in MB of 2**20 bytes (the highest of this process and of any child);
    ``cost`` is over this attempt and earlier ones that did not bring the result (``benchmark.cost.Cost``).
    """
    content: dict[str, Any] = {
        "step": step,
        "state": State.running,
        "reason": None,
        "traceback": None,
        "output": str(output),
        "started": _now(),
        "finished": None,
        "duration_s": None,
        "peak_memory_mb": None,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": sys.argv,
        "recipe": recipe,
        "recipe_digest": hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16],
        "inputs": {},
        "made": None,
        "code": code_version(),
        "versions": _versions(),
        "hardware": {"cpu": _cpu_model(), "cores": _cores(), "platform": platform.platform()},
        "gpus": [],
        "facts": {},
    }
    record = StepRecord(record_path(output), content)
    earlier = _cost_so_far(output, content["recipe_digest"])  # before the lock, which is written there too
    content["cost"] = earlier.as_dict()
    begin = time.monotonic()

    def close(state: State, reason: str | None) -> None:
        content.update(
            state=state,
            reason=reason,
            finished=_now(),
            duration_s=round(time.monotonic() - begin, 3),
            peak_memory_mb=host_memory_mb(),
            cost=(earlier + record.meter.cost()).as_dict(),
        )
        record._write()

    with exclusive(lock_path(output), output):
        try:
            record._write()
            content["inputs"] = {role: fingerprint(path) for role, path in inputs.items()}
            record._write()
            yield record
            content["made"] = fingerprint(output) if output.exists() else None
        except BaseException as error:
            state, reason = _ending(error)
            if not isinstance(error, BenchmarkError | KeyboardInterrupt | SystemExit):
                content["traceback"] = "".join(traceback.format_exception(error))
            try:
                close(state, reason)
            except (FileError, TypeError, ValueError) as second:  # the first error is the one to report
                error.add_note(f"its record could not be written either: {second}")
            raise
        close(State.done, None)


def read_record(path: Path) -> dict[str, Any] | None:
    """The record at ``path`` (see ``record_path``), or None without one; ``FileError`` if it is damaged."""
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or content.get("state") not in set(State):
        raise FileError("not a record of a step", where=path, remedy="delete it and run the step again")
    return content


def is_running(record: dict[str, Any], output: Path) -> bool:
    """Whether the step of a record that says ``running`` is under way: its process holds the output's lock.

    Not every file system passes locks on to other machines: a step on one of those counts as under way, too,
    if something was heard from it (``last_heard``) within ``SILENCE`` seconds.
    """
    here = record["host"] == socket.gethostname()
    if here and record["pid"] == os.getpid():
        return True
    return is_locked(lock_path(output)) or (not here and time.time() - last_heard(output) < SILENCE)


def last_heard(output: Path) -> float:
    """When the step that makes an output wrote its record or its progress last, in seconds of the epoch."""
    signs = (record_path(output), progress_path(output))
    return max((path.stat().st_mtime for path in signs if path.exists()), default=0.0)


def out_of_memory(record: dict[str, Any]) -> bool:
    """Whether a step failed because host or GPU had no memory left."""
    return any(words in (record["reason"] or "") for words in OUT_OF_MEMORY)


def check_attempt(output: Path, attempt: int) -> None:
    """Refuse a workflow's own second attempt where the first has shown that it must fail again.

    Bad input, an error in the code and divergence stay what they are; a killed process, an interruption and
    a lack of memory (of which a second attempt gets more) need not. ``attempt`` counts from 1.
    """
    record = read_record(record_path(output)) if attempt > 1 else None
    if record and record["state"] in (State.failed, State.diverged) and not out_of_memory(record):
        # in full, because the workflow has removed the log of that attempt
        found = record.get("traceback") or record["reason"]
        raise BenchmarkError(
            f"attempt {attempt} would fail as the one before it did", where=output, found=found
        )


def amend_record(output: Path, pid: int, state: State, reason: str) -> None:
    """Say in the record of ``output`` how process ``pid`` ended, which could not say so itself.

    A record of another process (an earlier attempt, say) stays as it is.
    """
    path = record_path(output)
    content = read_record(path)
    if content is None or content["pid"] != pid:
        return
    if content["duration_s"] is None:
        started = datetime.fromisoformat(content["started"])
        wall = round((datetime.now(UTC) - started).total_seconds(), 3)
        cost = cost_of(content) + Cost(1, wall, round(wall * len(content["gpus"]) / 3600, 6))
        content |= {"duration_s": wall, "cost": cost.as_dict()}
    write_json(path, content | {"state": state, "reason": reason, "finished": _now()})


def fingerprint(path: Path) -> dict[str, Any]:
    """What identifies an input: size and SHA-256.

    Files above ``HASH_LIMIT`` get size and modification time instead: hashing gigabytes of checkpoints and
    annotations before every step would cost minutes on network disks. Folders are named only.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise file_error("read", path, error) from error
    if path.is_dir():
        return {"path": str(path)}
    if stat.st_size > HASH_LIMIT:
        return {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    return {"path": str(path), "size": stat.st_size, "sha256": sha256_file(path)}


@cache
def code_version() -> str:
    """``git describe`` of the checkout that runs, or the version of the installed package."""
    folder = Path(__file__).resolve().parent.parent
    if (folder / ".git").exists():
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--tags"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError):
            pass  # no git on this machine, or a foreign owner: the version must do
        else:
            return done.stdout.strip()
    return _version(DISTRIBUTION) or "unknown"


def _ending(error: BaseException) -> tuple[State, str]:
    reason = (
        str(error) if isinstance(error, BenchmarkError) else f"{type(error).__name__}: {error}".rstrip(": ")
    )
    carried = getattr(error, "state", None)
    if carried in set(State):
        return State(carried), reason
    status = getattr(error, "code", getattr(error, "exit_code", None))  # of SystemExit and of typer.Exit
    return State.interrupted if isinstance(error, KeyboardInterrupt) or status == 3 else State.failed, reason


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _cost_so_far(output: Path, recipe_digest: str) -> Cost:
    try:
        return cost_so_far(read_record(record_path(output)), recipe_digest, output.parent)
    except (FileError, KeyError, TypeError, ValueError):  # a damaged record, which this one replaces
        return Cost()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str | None]:
    # from the installed metadata: importing torch would take seconds in commands that do not need it
    return {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}}


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
