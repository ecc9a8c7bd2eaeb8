"""A finished experiment, copies of it to break, and what must hold in a copy after every fault."""

import os
import random
import shutil
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from benchmark.files import read_json
from benchmark.recipes import load_experiment
from benchmark.recipes.models import Run
from benchmark.records import Record, read_record
from benchmark.reporting.collect import RunResult, collect_run
from benchmark.steps import Step, own_steps, steps_of
from benchmark.steps.sharing import SharedPass, shared_passes

from .commands import Command, start

EXPERIMENT = Path(__file__).with_name("faults.yaml")
DATA = Path("data/faults")
ROWS = {row.id: row for row in load_experiment(str(EXPERIMENT)).rows}


class Violation(Exception):
    """Something forbidden has happened."""


def claim(holds: bool, what: str) -> None:
    """Raise ``Violation`` unless the condition holds."""
    if not holds:
        raise Violation(what)


@dataclass(frozen=True)
class Target:
    """A step that a fault may hit, or all steps of a row if it has no name.

    Its key depends on the data, so the step itself exists only in a place.
    """

    kind: str
    row: str
    name: str

    @property
    def step(self) -> Step:
        """The step, as the working directory has it."""
        (run,) = ROWS[self.row].runs
        return next(step for step in steps_of(run) if step.name == self.name and self._is_own(run, step))

    def _is_own(self, run: Run, step: Step) -> bool:
        return step.kind.of_dataset or step.owner is run

    @property
    def arguments(self) -> list[str]:
        """Of the command that makes the step."""
        return ["make", f"{EXPERIMENT}:{self.row}", *([self.name] if self.name else [])]

    @property
    def output(self) -> Path:
        """The result, relative to a place."""
        return self.step.output()

    @property
    def results(self) -> list[Path]:
        """All that the step makes."""
        step = self.step
        return [step.output(role) for role in step.kind.outputs]

    def input(self, role: str) -> Path:
        """The file of a step before it."""
        return self.step.inputs[role].output()


@dataclass(frozen=True)
class PassTarget:
    """The shared pass of some rows, by the kind of its steps."""

    kind: str
    rows: tuple[str, ...]

    @property
    def members(self) -> list[Target]:
        """Those steps."""
        return [target for row in self.rows for target in targets_of(row) if target.kind == self.kind]

    @property
    def shared(self) -> SharedPass:
        """The pass, as the working directory has it."""
        places = [target.step.place for target in self.members]
        passes = shared_passes(step for row in ROWS.values() for step in steps_of(row.runs[0]))
        (shared,) = (item for item in passes if {step.place for step in item.steps} == set(places))
        return shared

    @property
    def arguments(self) -> list[str]:
        """Of the command that makes it."""
        return ["make", str(EXPERIMENT), self.shared.name]


def targets_of(row: str) -> list[Target]:
    """The steps of a row, in order."""
    (run,) = ROWS[row].runs
    return [Target(_kind(step), row, step.name) for step in own_steps(run)]


def _kind(step: Step) -> str:
    if step.stage is None or step.stage.kind != "train":
        return step.kind.name
    return "train with meta step" if step.stage.meta else f"train {step.stage.trainable}"


OF_DATA = [
    Target("statistics", "softmax", "statistics"),
    Target("intermediates", "bags", "intermediates"),
]
"""Steps that make what rows share."""


@dataclass
class Reference:
    """The undisturbed experiment, and the cost of each step."""

    folder: Path
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    writes: dict[str, int] = field(default_factory=dict)

    def make(self) -> None:
        """Run every step, counting its CPU time and the files that it puts in place."""
        (self.folder / "results").mkdir(parents=True)
        os.chdir(self.folder)
        command = start(["synthesize", "synthetic_tiny", "-o", str(DATA)], self.folder, self.folder / "log")
        claim(command.wait() == 0, f"reference: {command.output}")
        for target in [*OF_DATA, *(target for row in ROWS for target in targets_of(row))]:
            counter = self.folder / "writes"
            counter.write_bytes(b"")
            log = self.folder / "log"
            command = start(target.arguments, self.folder, log, partial(count_writes, counter))
            claim(command.wait() == 0, f"reference: {' '.join(target.arguments)}\n{command.output}")
            self.cpu_seconds[target.kind] = command.cpu_seconds
            self.writes[target.kind] = counter.stat().st_size
        for name in ("writes", "log"):
            (self.folder / name).unlink()

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The metrics of every row."""
        with chdir(self.folder):  # keys depend on the data in the working directory
            return {name: read_json(steps_of(row.runs[0])[-1].output()) for name, row in ROWS.items()}

    @cached_property
    def files(self) -> set[Path]:
        """Every file, relative."""
        return {path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file()}


@dataclass
class Place:
    """A copy of the finished experiment in which one fault happens."""

    folder: Path
    reference: Reference
    draw: random.Random
    commands: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.copy()
        os.chdir(self.folder)

    def copy(self) -> None:
        """Make the copy again."""
        shutil.copytree(self.reference.folder, self.folder, symlinks=True, dirs_exist_ok=True)

    @property
    def log(self) -> Path:
        """What the last command prints; beside the place, which must stay clean."""
        return self.folder.with_name(f"{self.folder.name}.{len(self.commands)}.log")

    def forget(self, target: Target) -> None:
        """Remove a step's result."""
        shutil.rmtree(target.step.folder, ignore_errors=True)

    def start(
        self, target: Target | PassTarget, prepare: Callable[[], None] = lambda: None, *more: str
    ) -> Command:
        """Start a step's command."""
        command = start([*target.arguments, *more], self.folder, self.log, prepare)
        self.commands.append(command)
        return command

    def run(
        self, target: Target | PassTarget, prepare: Callable[[], None] = lambda: None, *more: str
    ) -> Command:
        """Run a step's command to whatever end."""
        command = self.start(target, prepare, *more)
        command.wait()
        claim(not (left := command.orphans()), f"processes outlive their command: {left}")
        return command

    def record(self, target: Target) -> Record | None:
        """The record of a step, finished or not."""
        return read_record(target.step.record)

    def recover(self, target: Target) -> None:
        """Run the same command again, as a user would; afterwards everything must be as without the fault."""
        command = self.run(target)
        claim(command.status == 0, f"the same command again ended with {command.status}:\n{command.output}")
        self.check_recovered(target)

    def check_recovered(self, target: Target) -> None:
        """Same bytes as the reference, every row done, nothing left over."""
        record = self.record(target)
        claim(record is not None and record.state == "done", f"the record says {record}")
        self.check_same(target)
        self.check_tables(everything=True)
        files = {path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file()}
        claim(not (left := files - self.reference.files), f"files are left: {sorted(map(str, left))}")
        claim(not (gone := self.reference.files - files), f"files are gone: {sorted(map(str, gone))}")

    def same(self, target: Target) -> bool:
        """Whether a step's results are there and equal to those of the reference."""
        pairs = [(self.folder / path, self.reference.folder / path) for path in target.results]
        return all(here.is_file() and here.read_bytes() == there.read_bytes() for here, there in pairs)

    def check_same(self, target: Target) -> None:
        """The results of a step equal those of the reference, byte for byte."""
        claim(self.same(target), f"{target.output} differs from that of an undisturbed run")

    def check_tables(self, everything: bool = False) -> dict[str, RunResult]:
        """The numbers in tables are those of the reference; unfinished rows have none."""
        results = {name: collect_run(row.runs[0], None) for name, row in ROWS.items()}
        for name, result in results.items():
            if result.done:
                claim(result.metrics == self.reference.metrics[name], f"{name}: wrong numbers in the table")
            else:
                claim(not everything, f"{name} is {result.state}: {result.reason}")
                claim(not result.metrics, f"{name} is {result.state} and has numbers")
                claim(bool(result.reason), f"{name} is {result.state} without a reason")
        return results

    def check_refused(self, target: Target, command: Command, *words: str) -> None:
        """The command ended as for bad input, with one message that names the cause, and left nothing half
        written."""
        claim(command.status == 2, f"exit status {command.status}, expected 2:\n{command.output}")
        claim("Traceback" not in command.output, f"a traceback:\n{command.output}")
        for word in words:
            claim(word in command.output, f"'{word}' is not in the message:\n{command.output}")
        record = self.record(target)
        claim(record is not None and record.state == "failed", f"the record says {record}")
        assert record is not None
        claim(all(word in (record.reason or "") for word in words), f"the record's reason: {record.reason}")
        self.check_no_temporary()

    def check_no_temporary(self) -> None:
        """No lock and no half-written file."""
        left = [str(path) for ending in ("lock", "tmp") for path in self.folder.rglob(f".*.{ending}")]
        claim(not left, f"temporary files: {left}")


def count_writes(counter: Path) -> None:
    """Append a byte to ``counter`` for every file that is moved to its destination."""
    replace = Path.replace

    def counted(self: Path, target: Path) -> Path:
        with counter.open("ab") as file:
            file.write(b".")
        return replace(self, target)

    Path.replace = counted  # type: ignore[method-assign,assignment]


def die_at_write(number: int, before: bool) -> None:
    """Kill this process before or after the ``number``-th file is moved to its destination."""
    replace, count = Path.replace, 0

    def deadly(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == number and before:
            os.kill(os.getpid(), 9)
        done = replace(self, target)
        if count == number:
            os.kill(os.getpid(), 9)
        return done

    Path.replace = deadly  # type: ignore[method-assign,assignment]


assert sys.platform == "linux", "the fault run uses /proc and pidfd"
