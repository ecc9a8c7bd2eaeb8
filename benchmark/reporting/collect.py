"""What there is of an experiment's results, and how far each run came."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmark.cost import Cost, cost_of
from benchmark.errors import BenchmarkError
from benchmark.evaluation.metrics import METRICS
from benchmark.files import read_bytes, read_json
from benchmark.recipes import ExperimentRow
from benchmark.recipes.models import Run, Stage
from benchmark.recipes.paths import (
    checkpoint_path,
    dataset_folder,
    record_path,
    run_folder,
    statistics_path,
)
from benchmark.records import State, fingerprint, is_running, read_record

MISSING, STALE = "missing", "stale"
"""States of a result beyond those of a step: nothing is there; or what is there belongs to other inputs."""

PAPER_BUDGET = "paper"
HEADLINE = ("AP", "APr", "APc", "APf")


@dataclass(frozen=True)
class StepResult:
    """One step of a run or of one of its bases: ``state`` is of ``State``, ``missing`` or ``stale``.

    ``run`` is the run that carries it out; ``title`` names it in messages about the run that needs it.
    """

    run: Run
    name: str
    title: str
    output: Path
    record: dict[str, Any] | None
    state: str
    reason: str | None


@dataclass(frozen=True)
class RunResult:
    """One run: its state (of ``State``, or ``missing`` or ``stale``), and its numbers only if it is done.

    ``metrics[iou type][key]`` are fractions; ``seconds`` and ``memory_mb`` are over all recorded steps from
    initial weights to the evaluation, None where nothing is recorded. ``steps`` are these, after those that
    make the dataset.
    """

    run: Run
    state: str
    reason: str | None
    metrics: dict[str, dict[str, float | None]]
    seconds: float | None
    memory_mb: float | None
    steps: list[StepResult] = field(default_factory=list)

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
        return "bbox" if finished or not self.runs[0].run.detector.masks else "segm"

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

    def verdict(self, metric: str) -> bool | None:
        """Whether the difference is within the published row's tolerance; None where that cannot be said."""
        difference = self.difference(metric)
        if self.reported is None or difference is None or metric not in self.reported.tolerances:
            return None
        return abs(difference) <= self.reported.tolerances[metric]

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
    data, steps = data_steps(run), run_steps(run)
    try:
        problem = _problem(data, steps)
        metrics = {} if problem else _read_metrics(steps[-1].output)
    except BenchmarkError as error:
        problem, metrics = (State.failed, str(error)), {}
    state, reason = problem or (State.done, None)
    if state == MISSING and skipped is not None:
        state, reason = State.skipped, skipped
    ended = [step.record for step in steps if step.record and step.record["duration_s"] is not None]
    seconds = sum(cost_of(record).wall_s for record in ended) if ended else None
    # a process that was killed could not say how much memory it had
    memory = max((record["peak_memory_mb"] for record in ended if record["peak_memory_mb"]), default=None)
    return RunResult(run, state, reason, metrics, seconds, memory, data + steps)


def data_steps(run: Run) -> list[StepResult]:
    """What makes a run's dataset: the generation of a synthetic one, and the counts of its categories."""
    generated = [_step(run, "synthesize", dataset_folder(run.dataset), None)] if run.dataset.synthetic else []
    return [*generated, _step(run, "stats", statistics_path(run.dataset), None)]


def run_steps(run: Run) -> list[StepResult]:
    """Every step from initial weights to the metrics, in order, those of the run's bases first."""
    steps = [
        _step(item, stage.name, checkpoint_path(item, stage.name), item.digest(stage.name), item is not run)
        for item in lineage(run)
        for stage in own_stages(item)
    ]
    folder = run_folder(run)
    steps.append(_step(run, "predict", folder / "detections.parquet", run.digest("predict")))
    steps.append(_step(run, "evaluate", folder / "metrics.json", None))
    return steps


def _step(run: Run, name: str, output: Path, digest: str | None, of_base: bool = False) -> StepResult:
    title = f"{run.method} {name}" if of_base else name
    try:
        record = read_record(record_path(output))
    except BenchmarkError as error:
        return StepResult(run, name, title, output, None, State.failed, str(error))
    state, reason = _state(output, digest, record)
    return StepResult(run, name, title, output, record, state, reason)


def _state(output: Path, digest: str | None, record: dict[str, Any] | None) -> tuple[str, str | None]:
    if record is None:
        return (State.done if output.exists() else MISSING), None
    if record["state"] == State.running and not is_running(record, output):
        return State.interrupted, f"process {record['pid']} on {record['host']} ended without a word"
    recorded = record.get("recipe", {}).get("digest")
    if record["state"] != State.done:
        return record["state"], record["reason"]
    if digest is not None and recorded is not None and recorded != digest:
        return STALE, "made with another recipe"
    return (State.done if output.exists() else MISSING), None


def _problem(data: list[StepResult], steps: list[StepResult]) -> tuple[str, str] | None:
    """State and reason of the first step that is not as it should be; None if the metrics can be trusted."""
    for step in data + steps:
        if step.state == STALE:
            return STALE, f"{step.title} was {step.reason}"
        if step.state not in (State.done, MISSING):
            return step.state, f"{step.title}: {step.reason}" if step.reason else step.title
    *_, predict, evaluate = steps
    if evaluate.state == MISSING:
        last = max((i for i, step in enumerate(steps) if step.state == State.done), default=-1)
        return MISSING, f"next step: {steps[last + 1].title}"
    if evaluate.record is None:
        return STALE, "metrics.json has no record"
    if predict.state == MISSING:
        return STALE, "the detections of metrics.json are gone"
    if not _same(fingerprint(predict.output), evaluate.record["inputs"].get("detections")):
        return STALE, "metrics.json was computed from other detections"
    for step, following in pairwise(steps):
        inputs = following.record["inputs"] if following.record else {}
        taken = inputs.get("init") or inputs.get("checkpoint") or inputs.get("detections")
        made = step.record.get("made") if step.record else None
        if made and taken and not _same(made, taken):
            return STALE, f"{following.title} started from another result of {step.title}"
    made = evaluate.record.get("made")
    if made and not _same(fingerprint(evaluate.output), made):
        return STALE, "metrics.json is not what was evaluated: it was changed afterwards"
    return None


def _same(one: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    """Whether two fingerprints are of the same content; of a large file only the size tells."""
    keys = ("size", "sha256")
    return one is not None and other is not None and all(one.get(key) == other.get(key) for key in keys)


def cost_of_rows(rows: Sequence[RowResult]) -> Cost:
    """The sum over all recorded steps of the runs; one that several runs share counts once."""
    steps = [step for row in rows for result in row.runs for step in run_steps(result.run)]
    records = {step.output: step.record for step in steps}
    return sum((cost_of(record) for _, record in sorted(records.items())), Cost())


def _read_metrics(path: Path) -> dict[str, dict[str, float | None]]:
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(numbers, dict) for numbers in content.values()):
        raise BenchmarkError("not a file of metrics", where=path, remedy="run longtail evaluate again")
    return content


def read_reported(path: Path) -> dict[str, Reported]:
    """The published numbers by PAPER/ROW; empty without the file.

    The tolerance, in percentage points, is ours: repeated trainings of one recipe differ by about a point of
    AP, and by more in a part of the categories or objects. Raises ``BenchmarkError`` naming a bad line.
    """
    if not path.exists():
        return {}
    found: dict[str, Reported] = {}
    for line in csv.DictReader(io.StringIO(read_bytes(path).decode())):
        try:
            key = f"{line['paper']}/{line['row']}"
            entry = found.setdefault(key, Reported(line["dataset"], {}, {}))
            metric = _metric(line["metric"], line["dataset"])
            entry.values[metric] = float(line["value"])
            if line.get("tolerance"):
                entry.tolerances[metric] = float(line["tolerance"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BenchmarkError(
                "bad line of published numbers", where=path, found=line, expected=error
            ) from None
    return found


def _metric(name: str, dataset: str) -> str:
    """Our name of a published metric: SimCal numbers its bins, and recall goes without its detections."""
    iou, _, key = name.partition("/")
    if key.startswith("AP_bin"):
        mean = "eAP" if dataset == "coco_lt" else "bAP"
        key = METRICS[mean].of[int(key.removeprefix("AP_bin")) - 1]
    elif re.fullmatch(r"AR[sml]?", key):
        key += "@100" if dataset == "coco_lt" else "@300"
    return f"{iou}/{key}"
