"""The record of a step: what ran, on what, and how it ended. One JSON file in the step's folder."""

import json
import os
import platform
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from benchmark.cost import Cost, Meter, host_memory_mb, killed_attempt
from benchmark.errors import BenchmarkError, FileError
from benchmark.files import is_locked, read_bytes, sha256_file, write_text
from benchmark.recipes.paths import PROGRESS, RECORD
from benchmark.recipes.strict import Strict

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "MemoryError")
"""Messages of PyTorch, the GPU libraries and Python when memory runs out."""

SILENCE = 600.0
"""Seconds without progress after which a step on a machine whose locks are not visible here counts as
ended."""

SHARED_BY = "shared_by"
"""Fact of a step that was made together with others: their number at the start, including itself."""

PACKAGES = ("torch", "torchvision", "mmdet", "detectron2", "hotcoco", "numpy")
DISTRIBUTIONS = {"mmdet": "onedl-mmdetection"}
DISTRIBUTION = "longtail-bench"


class State(StrEnum):
    """State of a step; all but ``running`` are final, and only ``done`` makes its output a result."""

    running = "running"
    done = "done"
    skipped = "skipped"
    failed = "failed"
    diverged = "diverged"
    timeout = "timeout"
    interrupted = "interrupted"


class Output(Strict):
    """A file that a step made, or a folder of ``files`` files, by its name in the step's folder."""

    name: str
    bytes: int
    sha256: str | None = Field(None, description="of a file's content; none for folders")
    files: int | None = Field(None, description="number of files in a folder")


class Subject(Strict):
    """The subject of a record: the step and the contents of its key."""

    kind: str = Field(description="kind of step, e.g. train")
    step: str = Field(description="name of the step in its run")
    key: str = Field(description="the step's folder in the store")
    identity: str = Field(description="the key without the versions of the project's areas")
    owner: str = Field("", description="the run, BUDGET/DATASET/BACKEND/DETECTOR/METHOD/SEED, or the dataset")
    title: str = Field("", description="title of the run or dataset")
    reads: dict[str, Any] = Field({}, description="settings that the result depends on, without defaults")
    code: str | None = Field(None, description="version of the method's code")
    numerics: dict[str, str] = Field({}, description="version of each area of the project that takes part")
    inputs: dict[str, str] = Field({}, description="KIND/KEY of the steps before, by role")
    sources: dict[str, str] = Field({}, description="SHA-256 of the files that no step makes, by role")
    recipe: dict[str, Any] = Field({}, description="the whole resolved recipe, or the dataset")


class Record(Strict):
    """A step's record. ``format`` 1 was that of version 0.1. Times are in ISO 8601, durations in seconds,
    memory in MB of 2**20 bytes."""

    format: Literal[2] = 2
    subject: Subject
    state: State
    reason: str | None = None
    traceback: str | None = None
    started: str
    finished: str | None = None
    duration_s: float | None = None
    peak_memory_mb: float | None = None
    pid: int
    host: str
    command: list[str]
    outputs: list[Output] = Field([], description="what the step made")
    code_version: str = Field(description="git describe of the project, or its version")
    versions: dict[str, str | None] = Field(description="of Python and of packages")
    hardware: dict[str, Any]
    gpus: list[str] = Field([], description="UUIDs of the GPUs")
    facts: dict[str, Any] = Field({}, description="what only this kind of step knows")
    cost: Cost = Field(Cost(), description="of this attempt and of earlier ones that brought no result")

    def output(self, name: str) -> Output | None:
        """The entry of a file that the step made."""
        return next((output for output in self.outputs if output.name == name), None)


class StepRecorder:
    """The open record of a step in progress in ``folder``."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder, self.record = folder, record
        self.meter = Meter()

    def add(self, **facts: Any) -> None:
        """Add facts that only the step knows (name of the GPU, images read...); values must be JSON
        values."""
        self._change(facts={**self.record.facts, **facts})

    def use_gpus(self, gpus: Sequence[str]) -> None:
        """Set the GPUs of the step, by UUID, so that their time and energy are counted."""
        self.meter.use(gpus)
        self._change(gpus=list(gpus))
        self.write()

    def share(self, among: int) -> None:
        """From now on, ``among`` steps are made together, and this one has its part of their cost."""
        self.meter.share(among)

    def write(self) -> None:
        """Write the current record."""
        write_record(self.folder / RECORD, self.record)

    def close(self, state: State, **changes: Any) -> None:
        """Write the record with the end of the step."""
        self._change(state=state, finished=_now(), peak_memory_mb=host_memory_mb(), **changes)
        self.write()

    def _change(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update=changes)


@contextmanager
def record_step(folder: Path, subject: Subject) -> Iterator[StepRecorder]:
    """Keep the record of a step while it makes its outputs in ``folder``; no other process may do this at the
    same time.

    The state is ``running`` from the start, so that a killed process never looks finished. At the end it is
    ``done``, with the hash of every result in the folder; after an exception it is the exception's attribute
    ``state`` (e.g. ``diverged``), ``interrupted`` for Ctrl-C and exit status 3, else ``failed``. The
    exception propagates.
    """
    earlier = _cost_so_far(folder)  # before the record, which is written there too
    begin = time.monotonic()
    recorder = StepRecorder(
        folder,
        Record(
            subject=subject,
            state=State.running,
            started=_now(),
            pid=os.getpid(),
            host=socket.gethostname(),
            command=sys.argv,
            code_version=code_version(),
            versions=package_versions(),
            hardware={"cpu": _cpu_model(), "cores": _cores(), "platform": platform.platform()},
            cost=earlier,
        ),
    )

    def spent() -> dict[str, Any]:
        duration = round(time.monotonic() - begin, 3)
        return {"duration_s": duration, "cost": earlier + recorder.meter.cost()}

    try:
        recorder.write()
        yield recorder
        outputs = [_output(path) for path in sorted(folder.iterdir()) if _is_output(path)]
    except BaseException as error:
        state, reason = _ending(error)
        trace = None
        if not isinstance(error, BenchmarkError | KeyboardInterrupt | SystemExit):
            trace = "".join(traceback.format_exception(error))
        try:
            recorder.close(state, reason=reason, traceback=trace, **spent())
        except (FileError, TypeError, ValueError) as second:  # the first error is the one to report
            error.add_note(f"its record could not be written either: {second}")
        raise
    recorder.close(State.done, outputs=outputs, **spent())


def write_record(path: Path, record: Record) -> None:
    """Write a record atomically."""
    write_text(path, json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")


def read_record(path: Path) -> Record | None:
    """The record at ``path``, or None without one; ``FileError`` if it is damaged."""
    if not path.exists():
        return None
    try:
        return Record.model_validate_json(read_bytes(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise FileError(
            "not a record of a step",
            where=path,
            found=f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": "),
            remedy="delete its folder and make the step again",
        ) from None


def is_intact(folder: Path) -> bool:
    """Whether a folder contains a finished step with all outputs in its record."""
    try:
        record = read_record(folder / RECORD)
    except FileError:
        return False
    if record is None or record.state != State.done:
        return False
    return all(holds(folder / output.name, output) for output in record.outputs)


def holds(path: Path, output: Output) -> bool:
    """Whether a file has the content stated in a record; for a folder, whether it exists."""
    if output.sha256 is None:
        return path.is_dir()
    return path.is_file() and path.stat().st_size == output.bytes and sha256_file(path) == output.sha256


def is_running(record: Record, folder: Path, lock: Path) -> bool:
    """Whether a step with a record in state ``running`` is in progress: its process holds the step's lock.

    Not every file system shares locks with other machines, so a step on another machine also counts as in
    progress if it wrote something (``last_activity``) within ``SILENCE`` seconds.
    """
    here = record.host == socket.gethostname()
    if here and record.pid == os.getpid():
        return True
    return is_locked(lock) or (not here and time.time() - last_activity(folder) < SILENCE)


def last_activity(folder: Path) -> float:
    """The time at which the step in a folder last wrote its record or progress, in seconds since the
    epoch."""
    signs = (folder / RECORD, folder / PROGRESS)
    return max((path.stat().st_mtime for path in signs if path.exists()), default=0.0)


def out_of_memory(record: Record) -> bool:
    """Whether a step failed because the host or GPU ran out of memory."""
    return any(words in (record.reason or "") for words in OUT_OF_MEMORY)


def check_attempt(folder: Path, attempt: int) -> None:
    """Refuse a workflow's second attempt if the first one shows that it would fail again.

    Bad input, an error in the code and divergence would repeat; a killed process, an interruption and a lack
    of memory (of which a second attempt gets more) may not. ``attempt`` counts from 1.
    """
    record = read_record(folder / RECORD) if attempt > 1 else None
    if record and record.state in (State.failed, State.diverged) and not out_of_memory(record):
        # in full, because the workflow has removed the log of that attempt
        found = record.traceback or record.reason
        raise BenchmarkError(
            f"attempt {attempt} would fail as the one before it did", where=folder, found=found
        )


def amend_record(folder: Path, pid: int, state: State, reason: str) -> None:
    """Write to the record in ``folder`` how process ``pid`` ended, if it could not do so itself.

    The record of another process, e.g. of an earlier attempt, is not changed.
    """
    path = folder / RECORD
    record = read_record(path)
    if record is None or record.pid != pid:
        return
    changes: dict[str, Any] = {"state": state, "reason": reason, "finished": _now()}
    if record.duration_s is None:
        started = datetime.fromisoformat(record.started)
        wall = round((datetime.now(UTC) - started).total_seconds(), 3)
        cost = record.cost + Cost(1, wall, round(wall * len(record.gpus) / 3600, 6))
        changes |= {"duration_s": wall, "cost": cost}
    write_record(path, record.model_copy(update=changes))


@cache
def code_version() -> str:
    """``git describe`` of the checkout that runs, or the version of the installed package."""
    folder = Path(__file__).resolve().parent.parent
    if (folder / ".git").exists():
        # without a lock, which would stay in the repository if the command is killed
        git = ["git", "--no-optional-locks", "-C", str(folder)]
        command = [*git, "describe", "--always", "--dirty", "--tags"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError):
            pass  # no git on this machine, or another owner of the files: use the version
        else:
            return done.stdout.strip()
    return _version(DISTRIBUTION) or "unknown"


def _is_output(path: Path) -> bool:
    return not path.name.startswith(".") and path.name not in (RECORD, PROGRESS)


def _output(path: Path) -> Output:
    if path.is_dir():
        sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
        return Output(name=path.name, bytes=sum(sizes), files=len(sizes))
    return Output(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))


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


def _cost_so_far(folder: Path) -> Cost:
    try:
        record = read_record(folder / RECORD)
    except FileError:  # a damaged record, which the next one replaces
        return Cost()
    if record is None or record.state == State.done:
        return Cost()
    if record.state != State.running:
        return record.cost
    started = datetime.fromisoformat(record.started).timestamp()
    among = record.facts.get(SHARED_BY, 1)
    return record.cost + killed_attempt(started, len(record.gpus), folder, among)


def _version(package: str) -> str | None:
    try:
        return metadata.version(DISTRIBUTIONS.get(package, package))
    except metadata.PackageNotFoundError:
        return None


def package_versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that affect numbers; None for those that are not installed."""
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
