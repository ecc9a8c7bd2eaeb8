"""What is to be broken: a finished experiment, copies of it, and what must hold in one whatever happens."""

import os
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from benchmark.files import read_json
from benchmark.recipes import load_experiment
from benchmark.recipes.models import Run
from benchmark.recipes.paths import (
    annotations_path,
    checkpoint_path,
    dataset_folder,
    final_checkpoint_path,
    initial_checkpoint_path,
    progress_path,
    record_path,
    run_folder,
    statistics_path,
)
from benchmark.records import read_record
from benchmark.reporting.collect import RunResult, collect_run, own_stages

from .commands import Command, start

EXPERIMENT = Path(__file__).with_name("faults.yaml")
ROWS = {row.row.id: row for row in load_experiment(str(EXPERIMENT)).rows}


class Violation(Exception):
    """Something that must never happen."""


def claim(holds: bool, what: str) -> None:
    """Raise ``Violation`` unless it holds."""
    if not holds:
        raise Violation(what)


@dataclass(frozen=True)
class Step:
    """One command of the experiment; paths are relative to a place."""

    kind: str
    row: str
    arguments: tuple[str, ...]
    results: tuple[Path, ...]
    inputs: tuple[Path, ...]

    @property
    def output(self) -> Path:
        """The result that the record speaks of."""
        return self.results[0]

    @property
    def traces(self) -> tuple[Path, ...]:
        """All that the command writes."""
        return (*self.results, record_path(self.output), progress_path(self.output))


def stage_kind(run: Run, name: str) -> str:
    stage = next(stage for stage in run.stages if stage.name == name)
    if stage.kind != "train":
        return stage.kind
    return "train with meta step" if stage.meta else f"train {stage.trainable}"


def steps_of(row: str) -> list[Step]:
    """The commands of a row, in order."""
    (run,) = ROWS[row].runs
    recipe = f"{EXPERIMENT}:{row}"
    data = (annotations_path(run.dataset, "train"), statistics_path(run.dataset))
    found = []
    for stage in own_stages(run):
        output, init = checkpoint_path(run, stage.name), initial_checkpoint_path(run, stage.name)
        start_from = ("--init", str(init)) if init else ()
        arguments = ("train", recipe, stage.name, *start_from, "-o", str(output))
        inputs = (*data, init) if init else data
        found.append(Step(stage_kind(run, stage.name), row, arguments, (output,), inputs))
    folder, final = run_folder(run), final_checkpoint_path(run)
    detections, truth = folder / "detections.parquet", annotations_path(run.dataset, "val")
    arguments = ("predict", recipe, "-c", str(final), "-o", str(detections))
    found.append(Step("predict", row, arguments, (detections,), (truth, statistics_path(run.dataset), final)))
    statistics = statistics_path(run.dataset)
    arguments = ("evaluate", "--gt", str(truth), "--dt", str(detections), "--statistics", str(statistics))
    arguments = (*arguments, "--max-detections", str(run.test.max_detections))
    outputs = {"-o": "metrics.json", "--per-class": "per_class.csv", "--calibration": "calibration.csv"}
    for option, name in outputs.items():
        arguments = (*arguments, option, str(folder / name))
    results = tuple(folder / name for name in outputs.values())
    found.append(Step("evaluate", row, arguments, results, (truth, detections, statistics)))
    return found


def data_steps() -> list[Step]:
    dataset = ROWS["softmax"].runs[0].dataset
    folder, train, statistics = (
        dataset_folder(dataset),
        annotations_path(dataset, "train"),
        statistics_path(dataset),
    )
    generate = ("synthesize", dataset.name, "-o", str(folder))
    count = ("stats", str(train), "-o", str(statistics))
    return [
        Step("synthesize", "softmax", generate, (folder,), ()),
        Step("stats", "softmax", count, (statistics,), (train,)),
    ]


@dataclass
class Reference:
    """The experiment undisturbed, and what each step costs."""

    folder: Path
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    writes: dict[str, int] = field(default_factory=dict)

    def make(self) -> None:
        """Run every step, counting its CPU time and the files that it puts in place."""
        (self.folder / "results").mkdir(parents=True)
        for step in [*data_steps(), *(step for row in ROWS for step in steps_of(row))]:
            counter = self.folder / "writes"
            counter.write_bytes(b"")
            log = self.folder / "log"
            command = start(list(step.arguments), self.folder, log, partial(count_writes, counter))
            claim(command.wait() == 0, f"reference: {' '.join(step.arguments)}\n{command.output}")
            self.cpu_seconds[step.kind] = command.cpu_seconds
            self.writes[step.kind] = counter.stat().st_size
        for name in ("writes", "log"):
            (self.folder / name).unlink()

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The metrics of every row."""
        found = {}
        for name, row in ROWS.items():
            found[name] = read_json(self.folder / run_folder(row.runs[0]) / "metrics.json")
        return found

    @cached_property
    def files(self) -> set[Path]:
        """Every file, relative."""
        return {path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file()}


@dataclass
class Place:
    """A copy of the finished experiment, in which one fault happens."""

    folder: Path
    reference: Reference
    draw: random.Random
    commands: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.copy()
        os.chdir(self.folder)

    def copy(self) -> None:
        """Fill the folder anew."""
        shutil.copytree(self.reference.folder, self.folder, dirs_exist_ok=True)

    @property
    def log(self) -> Path:
        """What the last command prints; beside the place, which must stay clean."""
        return self.folder.with_name(f"{self.folder.name}.{len(self.commands)}.log")

    def forget(self, step: Step) -> None:
        """Take a step's results away, as a workflow does before it runs the step."""
        for path in step.traces:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def start(self, step: Step, prepare: Callable[[], None] = lambda: None, *more: str) -> Command:
        """Start a step's command."""
        command = start([*step.arguments, *more], self.folder, self.log, prepare)
        self.commands.append(command)
        return command

    def run(self, step: Step, prepare: Callable[[], None] = lambda: None, *more: str) -> Command:
        """Run a step's command to whatever end."""
        command = self.start(step, prepare, *more)
        command.wait()
        claim(not (left := command.orphans()), f"processes outlive their command: {left}")
        return command

    def recover(self, step: Step) -> None:
        """What a user does: the same command again. All must be as if nothing had happened."""
        command = self.run(step)
        claim(command.status == 0, f"the same command again ended with {command.status}:\n{command.output}")
        self.check_recovered(step)

    def check_recovered(self, step: Step) -> None:
        """Same bytes as undisturbed, every row done, nothing left over."""
        record = read_record(record_path(step.output))
        claim(record is not None and record["state"] == "done", f"the record says {record}")
        self.check_same(step)
        self.check_tables(everything=True)
        files = {path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file()}
        claim(not (left := files - self.reference.files), f"files are left: {sorted(map(str, left))}")
        claim(not (gone := self.reference.files - files), f"files are gone: {sorted(map(str, gone))}")

    def same(self, step: Step) -> bool:
        """Whether a step's results are there and equal to those of the reference."""
        pairs = [
            (path, self.reference.folder / path.relative_to(self.folder))
            for result in step.results
            for path in sorted((self.folder / result).rglob("*")) or [self.folder / result]
        ]
        return all(
            here.is_dir() or (here.is_file() and here.read_bytes() == there.read_bytes())
            for here, there in pairs
        )

    def check_same(self, step: Step) -> None:
        """The results of a step equal those of the reference, byte for byte."""
        claim(self.same(step), f"{step.output} differs from that of an undisturbed run")

    def check_tables(self, everything: bool = False) -> dict[str, RunResult]:
        """A number that a table would show is that of the reference; what is not done shows none."""
        results = {name: collect_run(row.runs[0], None) for name, row in ROWS.items()}
        for name, result in results.items():
            if result.done:
                claim(result.metrics == self.reference.metrics[name], f"{name}: wrong numbers in the table")
            else:
                claim(not everything, f"{name} is {result.state}: {result.reason}")
                claim(not result.metrics, f"{name} is {result.state} and has numbers")
                claim(bool(result.reason), f"{name} is {result.state} without a reason")
        return results

    def check_refused(self, step: Step, command: Command, *words: str) -> None:
        """The command ended as for bad input, with one message that names the cause, and nothing is half."""
        claim(command.status == 2, f"exit status {command.status}, expected 2:\n{command.output}")
        claim("Traceback" not in command.output, f"a traceback:\n{command.output}")
        for word in words:
            claim(word in command.output, f"'{word}' is not in the message:\n{command.output}")
        record = read_record(record_path(step.output))
        claim(record is not None and record["state"] == "failed", f"the record says {record}")
        claim(all(word in record["reason"] for word in words), f"the record's reason: {record['reason']}")
        self.check_no_temporary()

    def check_no_temporary(self) -> None:
        """No lock and no half-written file."""
        left = [str(path) for ending in ("lock", "tmp") for path in self.folder.rglob(f".*.{ending}")]
        claim(not left, f"temporary files: {left}")


def count_writes(counter: Path) -> None:
    """Add a byte to ``counter`` for every file that is put in place."""
    replace = Path.replace

    def counted(self: Path, target: Path) -> Path:
        with counter.open("ab") as file:
            file.write(b".")
        return replace(self, target)

    Path.replace = counted  # type: ignore[method-assign,assignment]


def die_at_write(number: int, before: bool) -> None:
    """End this process at once, before or after the file is renamed that it puts in place ``number``-th."""
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
