"""What there is of an experiment's results, and how far each run came."""

import csv
import io
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmark.cost import Cost, cost_of
from benchmark.errors import BenchmarkError
from benchmark.files import read_bytes, read_json
from benchmark.recipes import ExperimentRow
from benchmark.recipes.models import Run, Stage
from benchmark.recipes.paths import checkpoint_path, record_path, run_folder
from benchmark.records import State, fingerprint, read_record

MISSING, STALE = "missing", "stale"
"""States of a result beyond those of a step: nothing is there; or what is there belongs to other inputs."""

PAPER_BUDGET = "paper"
HEADLINE = ("AP", "APr", "APc", "APf")


@dataclass(frozen=True)
class RunResult:
    """One run: its state (of ``State``, or ``missing`` or ``stale``), and its numbers only if it is done.

    ``metrics[iou type][key]`` are fractions; ``seconds`` and ``memory_mb`` are over all recorded steps from
    initial weights to the evaluation, None where nothing is recorded.
    """

    run: Run
    state: str
    reason: str | None
    metrics: dict[str, dict[str, float | None]]
    seconds: float | None
    memory_mb: float | None

    @property
    def done(self) -> bool:
        """Whether the numbers can be trusted."""
        return self.state == State.done

    @property
    def status(self) -> str:
        """State and reason on one line."""
        lines = (self.reason or "").splitlines()
        return f"{self.state}: {lines[0]}" if lines else self.state


@dataclass(frozen=True)
class Reported:
    """A paper's row: ``values`` and ``tolerances`` in percent by metric, e.g. ``segm/AP``."""

    dataset: str
    values: dict[str, float]
    tolerances: dict[str, float]


@dataclass(frozen=True)
class RowResult:
    """One line of the table."""

    row: ExperimentRow
    runs: list[RunResult]
    reported: Reported | None = None
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name of the method."""
        return self.runs[0].run.title

    @property
    def iou(self) -> str:
        """The IoU type of the headline numbers: masks where the detector makes them."""
        if any("segm" in run.metrics for run in self.runs):
            return "segm"
        finished = any(run.metrics for run in self.runs)
        return "bbox" if finished or self.runs[0].run.detector.architecture == "faster_rcnn" else "segm"

    def mean(self, iou: str, key: str) -> float | None:
        """Mean over the finished seeds, as a fraction; None where there is none."""
        values = self.values.get((iou, key))
        return mean(values) if values else None

    def spread(self, iou: str, key: str) -> float | None:
        """Sample standard deviation over the finished seeds; None for fewer than two."""
        values = self.values.get((iou, key), [])
        return stdev(values) if len(values) > 1 else None

    def difference(self, metric: str) -> float | None:
        """Ours minus the paper's in percentage points, only where dataset and schedule are the paper's."""
        iou, _, key = metric.partition("/")
        run, ours = self.runs[0].run, self.mean(iou, key)
        if self.reported is None or ours is None or metric not in self.reported.values:
            return None
        if run.budget != PAPER_BUDGET or run.dataset_name != self.reported.dataset:
            return None
        return ours * 100 - self.reported.values[metric]

    @property
    def seconds(self) -> float | None:
        """Mean wall time of the runs."""
        times = [run.seconds for run in self.runs if run.seconds is not None]
        return mean(times) if times else None

    @property
    def memory_mb(self) -> float | None:
        """Highest memory of any run."""
        return max((run.memory_mb for run in self.runs if run.memory_mb is not None), default=None)

    @property
    def status(self) -> str:
        """One state if the seeds agree, else how many are done and what happened to the others."""
        states = list(dict.fromkeys(run.status for run in self.runs))
        if len(states) == 1:
            return states[0]
        done = sum(run.done for run in self.runs)
        others = [f"seed {run.run.seed} {run.status}" for run in self.runs if not run.done]
        return "; ".join([f"{done} of {len(self.runs)} done", *others])

    @property
    def schedule(self) -> str:
        """Length of every stage from initial weights on, with the budget's name."""
        lengths = [_length(stage) for run in lineage(self.runs[0].run) for stage in own_stages(run)]
        return f"{self.runs[0].run.budget}: {' + '.join(lengths)}"


def _length(stage: Stage) -> str:
    if stage.schedule is None:
        return stage.kind
    if stage.schedule.iterations is not None:
        return f"{stage.schedule.iterations:,} it"
    return f"{stage.schedule.epochs:g} ep"


def lineage(run: Run) -> list[Run]:
    """The run after all runs that it starts from."""
    return [*lineage(run.base), run] if run.base is not None else [run]


def own_stages(run: Run) -> list[Stage]:
    """The stages that the run carries out itself."""
    return [stage for stage in run.stages if stage.from_ is None]


def collect_row(row: ExperimentRow, reported: dict[str, Reported]) -> RowResult:
    """All seeds of a row; ``reported`` is by PAPER/ROW."""
    runs = [collect_run(run, row.skipped) for run in row.runs]
    values: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for iou, numbers in run.metrics.items():
            for key, value in numbers.items():
                if value is not None:
                    values.setdefault((iou, key), []).append(value)
    return RowResult(row, runs, reported.get(row.row.reported or ""), values)


def collect_run(run: Run, skipped: str | None) -> RunResult:
    """How far a run came; numbers are taken only if every recorded step is done and up to date.

    Results made elsewhere count also where the run could not be made here (``skipped``).
    """
    seconds: list[float] = []
    memory: list[float] = []
    try:
        problem = _problem(run, seconds, memory)
        metrics = {} if problem else _read_metrics(run_folder(run) / "metrics.json")
    except BenchmarkError as error:
        problem, metrics = (State.failed, str(error)), {}
    state, reason = problem or (State.done, None)
    if state == MISSING and skipped is not None:
        state, reason = State.skipped, skipped
    return RunResult(
        run, state, reason, metrics, sum(seconds) if seconds else None, max(memory) if memory else None
    )


def _steps(run: Run) -> Iterator[tuple[str, Path, str | None]]:
    """Name, output and recipe digest of every step, in order."""
    for item in lineage(run):
        owner = "" if item is run else f"{item.method} "
        for stage in own_stages(item):
            yield f"{owner}{stage.name}", checkpoint_path(item, stage.name), item.digest(stage.name)
    folder = run_folder(run)
    yield "predict", folder / "detections.parquet", run.digest("predict")
    yield "evaluate", folder / "metrics.json", None


def _problem(run: Run, seconds: list[float], memory: list[float]) -> tuple[str, str] | None:
    """State and reason of the first step that is not as it should be; None if the metrics can be trusted."""
    unmade = None
    problem: tuple[str, str] | None = None
    record: dict[str, Any] | None = None
    for step, output, digest in _steps(run):
        record = read_record(record_path(output))
        if record is None:
            unmade = unmade or (step if not output.exists() else None)
            continue
        if record.get("duration_s") is not None:
            seconds.append(cost_of(record).wall_s)
            memory.append(record["peak_memory_mb"])
        recorded = record.get("recipe", {}).get("digest")
        if problem is not None:
            continue
        if record["state"] == State.running and _gone(record):
            problem = State.interrupted, f"{step}: process {record['pid']} ended without a word"
        elif record["state"] != State.done:
            problem = record["state"], f"{step}: {record['reason']}" if record["reason"] else step
        elif digest is not None and recorded is not None and recorded != digest:
            problem = STALE, f"{step} was made with another recipe"
    folder = run_folder(run)
    if problem is not None:
        return problem
    if not (folder / "metrics.json").exists():
        return MISSING, f"next step: {unmade or 'evaluate'}"
    if record is None:
        return STALE, "metrics.json has no record"
    if not (folder / "detections.parquet").exists():
        return STALE, "the detections of metrics.json are gone"
    now = fingerprint(folder / "detections.parquet")
    then = record["inputs"].get("detections", {})
    if {**now, "path": None} != {**then, "path": None}:
        return STALE, "metrics.json was computed from other detections"
    return None


def _gone(record: dict[str, Any]) -> bool:
    """Whether the process of a running step is known to have ended: it was killed before it could say so."""
    if record["host"] != socket.gethostname():
        return False
    try:
        os.kill(record["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def cost_of_rows(rows: Sequence[RowResult]) -> Cost:
    """The sum over all recorded steps of the runs; one that several runs share counts once."""
    outputs = {output for row in rows for result in row.runs for _, output, _ in _steps(result.run)}
    total = Cost()
    for output in sorted(outputs):
        try:
            total += cost_of(read_record(record_path(output)))
        except BenchmarkError:  # a damaged record is the state of its run, and told there
            continue
    return total


def _read_metrics(path: Path) -> dict[str, dict[str, float | None]]:
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(numbers, dict) for numbers in content.values()):
        raise BenchmarkError("not a file of metrics", where=path, remedy="run longtail evaluate again")
    return content


def read_reported(path: Path) -> dict[str, Reported]:
    """The published numbers by PAPER/ROW; empty without the file."""
    if not path.exists():
        return {}
    found: dict[str, Reported] = {}
    for line in csv.DictReader(io.StringIO(read_bytes(path).decode())):
        try:
            key = f"{line['paper']}/{line['row']}"
            entry = found.setdefault(key, Reported(line["dataset"], {}, {}))
            entry.values[line["metric"]] = float(line["value"])
            if line.get("tolerance"):
                entry.tolerances[line["metric"]] = float(line["tolerance"])
        except (KeyError, TypeError, ValueError) as error:
            raise BenchmarkError(
                "bad line of published numbers", where=path, found=line, expected=error
            ) from None
    return found
