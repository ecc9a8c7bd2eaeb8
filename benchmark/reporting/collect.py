"""The results of an experiment so far, and the state of each run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev

from benchmark.cost import Cost
from benchmark.errors import BenchmarkError
from benchmark.evaluation.metrics import METRICS
from benchmark.files import read_bytes, read_json, sha256_file
from benchmark.numerics import area_versions
from benchmark.recipes import ExperimentRow, lineage
from benchmark.recipes.models import Deviation, Run, Stage
from benchmark.recipes.paths import RECORD, store_folder
from benchmark.recipes.touches import Touched
from benchmark.records import Record, State, is_running, read_record
from benchmark.steps import Step, older, steps_of
from benchmark.tables import csv_records

MISSING = "missing"
"""State of a result that does not exist, in addition to the states of a step."""

HEADLINE = ("AP", "APr", "APc", "APf")


@dataclass(frozen=True)
class StepResult:
    """A step with its record: ``state`` is a ``State`` or ``missing``; ``title`` is its name in messages
    about the run that needs it."""

    step: Step
    title: str
    record: Record | None
    state: str
    reason: str | None


@dataclass(frozen=True)
class RunResult:
    """A run: its state (a ``State`` or ``missing``), and its numbers if it has some.

    ``metrics[iou type][key]`` are fractions; ``seconds`` and ``memory_mb`` are over all recorded steps from
    initial weights to the evaluation, None if nothing is recorded. ``steps`` are all steps in order,
    including those of the dataset and of bases. ``folders`` are those of the steps behind the numbers, by
    name. If the numbers are from other code, ``older`` names the versions of its areas
    (``benchmark.numerics``).
    """

    run: Run
    state: str
    reason: str | None
    metrics: dict[str, dict[str, float | None]]
    seconds: float | None
    memory_mb: float | None
    steps: list[StepResult] = field(default_factory=list)
    folders: dict[str, Path] = field(default_factory=dict)
    older: str | None = None

    @property
    def done(self) -> bool:
        """Whether the numbers are those of the current recipe and code."""
        return self.state == State.done

    @property
    def has_numbers(self) -> bool:
        """Whether there are numbers, of the current or of older code."""
        return self.done or self.older is not None

    @property
    def status(self) -> str:
        """State and reason on one line, and the versions of older code behind the numbers, if so."""
        lines = (self.reason or "").splitlines()
        state = f"{self.state}: {lines[0]}" if lines else self.state
        return "; ".join(filter(None, [None if self.state == MISSING and self.older else state, self.older]))

    def file(self, step: str, name: str) -> Path:
        """A file of the step ``statistics``, ``predict`` or ``evaluate`` behind the numbers."""
        return self.folders[step] / name


def within_tolerance(difference: float | None, tolerance: float | None) -> bool | None:
    """Whether a difference from a published number is within its tolerance; None if either is unknown."""
    if difference is None or tolerance is None:
        return None
    return abs(difference) <= tolerance + 1e-9  # rounding of a difference that equals the tolerance


@dataclass(frozen=True)
class Reported:
    """A paper's row: ``values`` and ``tolerances`` in percent by metric, e.g. ``segm/AP``."""

    dataset: str
    values: dict[str, float]
    tolerances: dict[str, float]


@dataclass(frozen=True)
class RowResult:
    """One line of the table."""

    resolved: ExperimentRow
    runs: list[RunResult]
    reported: Reported | None = None

    @property
    def id(self) -> str:
        """The row's name in the experiment."""
        return self.resolved.id

    @property
    def touches(self) -> Touched | None:
        """What the method changes, where the experiment groups its rows by that; else None."""
        return self.resolved.touches

    @property
    def deviations(self) -> list[Deviation]:
        """Differences from the published row."""
        return self.resolved.deviations

    @property
    def counted(self) -> list[RunResult]:
        """The seeds whose numbers count: those that are done, or if there are none, those with numbers of
        older code."""
        return [run for run in self.runs if run.done] or [run for run in self.runs if run.has_numbers]

    @cached_property
    def values(self) -> dict[tuple[str, str], list[float]]:
        """Fractions of the counted seeds by IoU type and metric."""
        found: dict[tuple[str, str], list[float]] = {}
        for run in self.counted:
            for iou, numbers in run.metrics.items():
                for key, value in numbers.items():
                    if value is not None:
                        found.setdefault((iou, key), []).append(value)
        return found

    @property
    def title(self) -> str:
        """Name of the method."""
        return self.runs[0].run.title

    @property
    def iou(self) -> str:
        """The IoU type of the headline numbers: masks if the detector predicts them."""
        if any("segm" in run.metrics for run in self.counted):
            return "segm"
        return "bbox" if self.counted or not self.runs[0].run.detector.masks else "segm"

    def mean(self, iou: str, key: str) -> float | None:
        """Mean over the counted seeds, as a fraction; None if there are none."""
        values = self.values.get((iou, key))
        return mean(values) if values else None

    def spread(self, iou: str, key: str) -> float | None:
        """Sample standard deviation over the counted seeds; None for fewer than two."""
        values = self.values.get((iou, key), [])
        return stdev(values) if len(values) > 1 else None

    def difference(self, metric: str) -> float | None:
        """Our number minus the paper's in percentage points; None unless dataset and schedule are the
        paper's."""
        iou, _, key = metric.partition("/")
        run, ours = self.runs[0].run, self.mean(iou, key)
        if self.reported is None or ours is None or metric not in self.reported.values:
            return None
        if not self.resolved.comparable or run.dataset_name != self.reported.dataset:
            return None
        return ours * 100 - self.reported.values[metric]

    def verdict(self, metric: str) -> bool | None:
        """Whether the difference is within the published row's tolerance; None if that is unknown."""
        if self.reported is None or not any(run.done for run in self.runs):  # numbers of older code
            return None
        return within_tolerance(self.difference(metric), self.reported.tolerances.get(metric))

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
        """The state if all seeds have the same, else how many are done and the states of the others."""
        states = list(dict.fromkeys(run.status for run in self.runs))
        if len(states) == 1:
            return states[0]
        done = sum(run.done for run in self.runs)
        others = [f"seed {run.run.seed} {run.status}" for run in self.runs if not run.done]
        return "; ".join([f"{done} of {len(self.runs)} done", *others])

    @property
    def schedule(self) -> str:
        """Length of every stage from the initial weights on, with the budget's name."""
        lengths = [_length(stage) for run in lineage(self.runs[0].run) for stage in run.stages]
        return f"{self.runs[0].run.budget}: {' + '.join(lengths)}"


def _length(stage: Stage) -> str:
    if stage.schedule is None:
        return stage.kind
    if stage.schedule.iterations is not None:
        return f"{stage.schedule.iterations:,} it"
    return f"{stage.schedule.epochs:g} ep"


def collect_row(row: ExperimentRow, reported: dict[str, Reported]) -> RowResult:
    """All seeds of a row; ``reported`` is by PAPER/ROW."""
    runs = [collect_run(run, row.skipped) for run in row.runs]
    return RowResult(row, runs, reported.get(row.entry.reported or ""))


def collect_run(run: Run, skipped: str | None) -> RunResult:
    """The state of a run, and its numbers.

    Results from another machine count even if the run cannot be made here (``skipped``). If there is no
    result of the current code, the numbers of older code are used, if any.
    """
    steps = [_collect_step(step, run) for step in steps_of(run)]
    evaluate = steps[-1].step
    spent = _spent(steps)
    state, reason = _state(steps)
    if state == MISSING and skipped is not None:
        state, reason = State.skipped, skipped
    folders, versions = {"evaluate": evaluate.folder, **_folders(evaluate.subject.inputs)}, None
    try:
        if state != State.done:
            record = next((read_record(folder / RECORD) for folder in older(evaluate)), None)
            if record is None:
                return RunResult(run, state, reason, {}, *spent, steps)
            folders = {
                "evaluate": evaluate.folder.with_name(record.subject.key),
                **_folders(record.subject.inputs),
            }
            versions = _older_versions(record)
        metrics = _read_metrics(folders["evaluate"])
    except BenchmarkError as error:
        return RunResult(run, State.failed, str(error), {}, *spent, steps)
    return RunResult(run, state, reason, metrics, *spent, steps, folders, versions)


def _folders(inputs: Mapping[str, str]) -> dict[str, Path]:
    """The folders of the inputs of an evaluation, by the name of their step."""
    names = {"detections": "predict", "statistics": "statistics"}
    return {name: store_folder() / inputs[role] for role, name in names.items()}


def _read_metrics(folder: Path) -> dict[str, dict[str, float | None]]:
    path = folder / "metrics.json"
    record = read_record(folder / RECORD)
    made = record.output(path.name) if record is not None else None
    if made is None or not path.is_file() or sha256_file(path) != made.sha256:
        raise BenchmarkError(
            "the file of numbers has changed since the evaluation",
            where=path,
            remedy="longtail make RECIPE makes the damaged step again",
        )
    metrics: dict[str, dict[str, float | None]] = read_json(path)
    return metrics


def _older_versions(record: Record) -> str:
    """The versions of areas behind a result that differ from the current ones."""
    now = area_versions()
    then = record.subject.numerics
    parts = [
        f"{area} {version} (now {now[area]})" for area, version in then.items() if version != now.get(area)
    ]
    return f"numbers of other code: {', '.join(parts)}"


def _spent(steps: Sequence[StepResult]) -> tuple[float | None, float | None]:
    """Seconds and peak memory of the recorded steps of a run and its bases, without those of the dataset."""
    records = [
        result.record
        for result in steps
        if result.record is not None
        and result.record.duration_s is not None
        and not result.step.kind.of_dataset
    ]
    # a killed process has not recorded its memory
    memory = max((record.peak_memory_mb for record in records if record.peak_memory_mb), default=None)
    return sum(record.cost.wall_s for record in records) if records else None, memory


def _collect_step(step: Step, run: Run) -> StepResult:
    title = step.name
    if not (step.kind.of_dataset or step.owner is run):
        title = f"{step.run.method} {step.name}"
    if step.dataset.name != run.dataset_name:
        title += f" ({step.dataset.name})"
    try:
        record = read_record(step.record)
    except BenchmarkError as error:
        return StepResult(step, title, None, State.failed, str(error))
    if record is None:
        return StepResult(step, title, None, MISSING, None)
    if record.state == State.running and not is_running(record, step.work, step.lock):
        reason = f"process {record.pid} on {record.host} ended without a message"
        return StepResult(step, title, record, State.interrupted, reason)
    return StepResult(step, title, record, record.state, record.reason)


def _state(steps: Sequence[StepResult]) -> tuple[str, str | None]:
    """State and reason of a run: done if its evaluation is done; otherwise those of its first step that is
    neither done nor missing."""
    if steps[-1].state == State.done:
        return State.done, None
    for result in steps:
        if result.state not in (State.done, MISSING):
            return result.state, f"{result.title}: {result.reason}" if result.reason else result.title
    return MISSING, f"next step: {next(result.title for result in steps if result.state == MISSING)}"


def cost_of_rows(rows: Sequence[RowResult]) -> Cost:
    """The sum over all recorded steps of the runs; steps that several runs share count once."""
    records = {
        result.step.place: result.record
        for row in rows
        for run in row.runs
        for result in run.steps
        if result.record is not None and not result.step.kind.of_dataset
    }
    return sum((record.cost for _, record in sorted(records.items())), Cost())


def read_reported(path: Path) -> dict[str, Reported]:
    """The published numbers by PAPER/ROW.

    The tolerance, in percentage points, is our choice: repeated trainings of one recipe differ by about a
    point of AP, and by more for subsets of categories or objects. Raises ``BenchmarkError`` naming a bad
    line, or if the file is missing.
    """
    if not path.exists():
        raise BenchmarkError(
            "the published numbers, which come with the project, are missing",
            where=path,
            remedy="git checkout results/reported",
        )
    found: dict[str, Reported] = {}
    for line in csv_records(read_bytes(path).decode()):
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
    """Our name of a published metric: SimCal numbers its bins, and names of recall lack the number of
    detections."""
    iou, _, key = name.partition("/")
    if key.startswith("AP_bin"):
        mean = "eAP" if dataset == "coco_lt" else "bAP"
        key = METRICS[mean].of[int(key.removeprefix("AP_bin")) - 1]
    elif re.fullmatch(r"AR[sml]?", key):
        key += "@100" if dataset == "coco_lt" else "@300"
    return f"{iou}/{key}"
