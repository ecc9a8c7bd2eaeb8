"""The progress of an experiment: the tree of its runs and their steps, as text and as JSON."""

import os
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from benchmark.recipes import ExperimentRow, LoadedExperiment, lineage
from benchmark.recipes.models import Run
from benchmark.recipes.paths import run_name
from benchmark.records import State, last_activity
from benchmark.reporting.advice import cause_and_advice, read_progress
from benchmark.reporting.collect import MISSING, RunResult, StepResult, collect_run
from benchmark.reporting.tables import duration
from benchmark.steps import Step

WAITING = "waiting"
PLAIN_WIDTH = 100  # columns if the output is not a terminal
STYLES = {
    State.done: "green",
    State.running: "cyan",
    State.failed: "bold red",
    State.diverged: "bold red",
    State.timeout: "yellow",
    State.interrupted: "yellow",
    State.skipped: "dim",
    WAITING: "dim",
}


@dataclass(frozen=True)
class Progress:
    """Progress of a running training: iterations done and in total, recent mean loss, seconds."""

    iteration: int
    iterations: int | None
    loss: float | None
    seconds_left: float | None


@dataclass(frozen=True)
class StepStatus:
    """One step. ``state`` is a ``State``, ``waiting`` or ``stale``; ``seconds`` is its duration so far;
    ``silent_s`` the time since a running step last wrote something."""

    name: str
    state: str
    seconds: float | None
    cause: str | None = None
    advice: str | None = None
    log: str | None = None
    host: str | None = None
    progress: Progress | None = None
    silent_s: float | None = None


@dataclass(frozen=True)
class RunStatus:
    """A run with its own steps; ``base`` names the run with the steps of its base. ``rows`` are its rows of
    the table; none if other runs only start from it."""

    folder: str
    method: str
    title: str
    rows: list[str]
    seed: int
    base: str | None
    state: str
    cause: str | None
    steps: list[StepStatus] = field(default_factory=list)


@dataclass(frozen=True)
class DatasetStatus:
    """The steps whose results all runs on a dataset read."""

    name: str
    steps: list[StepStatus]


@dataclass(frozen=True)
class Status:
    """An experiment: ``done`` of ``runs`` rows' runs are finished; ``seconds`` is the time of all steps."""

    name: str
    title: str
    done: int
    runs: int
    seconds: float
    datasets: list[DatasetStatus]
    tree: list[RunStatus]

    def as_dict(self) -> dict[str, Any]:
        """The status as JSON values."""
        return asdict(self)


def collect_status(experiment: LoadedExperiment) -> Status:
    """The status of every run, of the bases that runs start from (each once), and of the datasets.

    Reads only records, progress files and locks, so it works at any time, while a workflow runs and from
    another machine on the same file system.
    """
    results = {run_name(run): collect_run(run, row.skipped) for row in experiment.rows for run in row.runs}
    datasets: dict[str, DatasetStatus] = {}
    tree: dict[str, RunStatus] = {}
    for row in experiment.rows:
        for run in row.runs:
            whole = results[run_name(run)]
            if whole.state != State.skipped:
                for name, made in _dataset_steps(whole).items():
                    datasets.setdefault(name, DatasetStatus(name, made))
            # without the bases of runs that cannot run here
            for item in lineage(run) if row.skipped is None else [run]:
                name = run_name(item)
                if name not in tree:
                    tree[name] = _run_status(item, whole, results.get(name), _row_ids(experiment.rows, item))
    done = sum(result.done for result in results.values())
    steps = [step for dataset in datasets.values() for step in dataset.steps]
    steps += [step for run_status in tree.values() for step in run_status.steps]
    seconds = sum(step.seconds for step in steps if step.seconds is not None)
    return Status(
        experiment.name,
        experiment.title,
        done,
        len(results),
        seconds,
        list(datasets.values()),
        list(tree.values()),
    )


def print_status(status: Status, file: TextIO | None = None) -> None:
    """Print the tree, with the width and the colours of the terminal, or as plain text to a file.

    Shows the steps of a run only if their states differ; a run that is done or has not started is one line.
    """
    file = file or sys.stdout
    width = None if file.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    console = Console(file=file, width=width, highlight=False, markup=False, emoji=False)
    head = f"{status.name}: {status.done} of {status.runs} runs done, {duration(status.seconds)} of wall time"
    tree = Tree(Text(head, "bold"))
    for dataset in status.datasets:
        state = next((step.state for step in dataset.steps if step.state != State.done), State.done)
        text = Text(f"dataset {dataset.name}: ")
        _add_branch(tree, text.append(str(state), STYLES.get(state, "")), dataset.steps)
    for run in status.tree:
        _add_branch(tree, _run_text(run), run.steps)
    console.print(tree)


def _add_branch(tree: Tree, text: Text, steps: list[StepStatus]) -> None:
    spent = [step.seconds for step in steps if step.seconds is not None]
    if spent:
        text.append(f", {duration(sum(spent))}")
    branch = tree.add(text)
    wide = max((len(step.name) for step in steps), default=0)
    for step in steps if {step.state for step in steps} not in ({State.done}, {WAITING}) else []:
        branch.add(_step_text(step, wide))


def _dataset_steps(result: RunResult) -> dict[str, list[StepStatus]]:
    """The status of the steps of each dataset that a run and its bases need, by the dataset's name."""
    found: dict[str, list[StepStatus]] = {}
    for item in result.steps:
        if item.step.kind.of_dataset:
            found.setdefault(item.step.dataset.name, []).append(_step_status(item))
    return found


def _row_ids(rows: list[ExperimentRow], run: Run) -> list[str]:
    name = run_name(run)
    return [row.id for row in rows if any(run_name(item) == name for item in row.runs)]


def _run_status(run: Run, whole: RunResult, result: RunResult | None, rows: list[str]) -> RunStatus:
    """The status of a run that ``whole``, a row's run, is or starts from; ``result`` if it is a row
    itself."""
    steps = result.steps if result else whole.steps
    own = [item for item in steps if item.step.owner is run]
    if result is None:  # only others start from it
        own = [item for item in own if item.step.kind.trains]
        state: str = next((item.state for item in own if item.state != State.done), State.done)
        cause = None
    else:
        state = result.state
        cause = result.reason if state == State.skipped else result.older
        before = [item for item in result.steps if item not in own]
        where = next((item.title for item in before if item.state == state), None)
        if where is not None and state not in (State.done, MISSING):
            cause = f"see {where}"  # the reason is at a base or at the dataset
    method = f"{run.method}+{run.variant}" if run.variant else run.method
    base = run_name(run.base) if run.base is not None else None
    shown = [] if state == State.skipped else [_step_status(item) for item in own]
    state = WAITING if state == MISSING else state
    return RunStatus(run_name(run), method, run.title, rows, run.seed, base, state, cause, shown)


def _step_status(result: StepResult) -> StepStatus:
    step, record = result.step, result.record
    if result.state == MISSING:
        return StepStatus(step.name, WAITING, None)
    log = str(step.log) if step.log.is_file() and result.state != State.done else None
    if result.state == State.running and record is not None:
        heard = time.time() - last_activity(step.work)
        started = datetime.fromisoformat(record.started).timestamp()
        return StepStatus(
            step.name,
            result.state,
            time.time() - started,
            log=log,
            host=record.host,
            progress=_progress(step, started, heard),
            silent_s=heard,
        )
    cause, advice = cause_and_advice(result)
    seconds, host = (record.duration_s, record.host) if record is not None else (None, None)
    return StepStatus(step.name, result.state, seconds, cause, advice, log, host)


def _progress(step: Step, started: float, heard: float) -> Progress | None:
    path = step.progress
    lines = read_progress(path) if path.is_file() and path.stat().st_mtime >= started else []
    if not lines:
        return None
    last = lines[-1]
    left = last.get("seconds_left")
    left = None if left is None else max(0.0, left - heard)
    return Progress(last["iteration"], last.get("iterations"), last.get("loss"), left)


def _run_text(run: RunStatus) -> Text:
    text = Text()
    text.append(", ".join(run.rows) or f"base {run.method}", "bold")
    text.append(f" ({run.title}, seed {run.seed}")
    if run.base is not None:
        text.append(f", from {run.base.split('/')[-2]}")
    text.append("): ")
    text.append(f"{run.state}{': ' if run.cause else ''}", STYLES.get(run.state, ""))
    return text.append(run.cause or "")


def _step_text(step: StepStatus, wide: int) -> Text:
    text = Text(f"{step.name:<{wide}}  ")
    text.append(f"{step.state:<11}", STYLES.get(step.state, ""))
    text.append(f"  {_facts(step)}")
    text.rstrip()
    for title, words in (("cause", step.cause), ("advice", step.advice), ("log", step.log)):
        if words and step.state not in (State.done, State.running):
            text.append(f"\n{title}: {words}")
    return text


def _facts(step: StepStatus) -> str:
    if step.state != State.running:
        return duration(step.seconds)
    parts = [duration(step.seconds)]
    if step.progress is not None:
        now = step.progress
        of = f" of {now.iterations}" if now.iterations else ""
        parts.append(f"{now.iteration}{of} iterations")
        if now.loss is not None:
            parts.append(f"loss {now.loss:.3f}")
        if now.seconds_left is not None:
            parts.append(f"{duration(now.seconds_left)} left")
    if step.host != socket.gethostname():
        parts.append(f"on {step.host}")
    parts.append(f"last heard {duration(step.silent_s)} ago")
    return ", ".join(parts)
