"""The status shows the state of every step, and for a failed step its cause and advice with numbers."""

import io
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from places import Diverged, fail, step_of
from reporting.results_tree import EXPERIMENT, complete_run, complete_stage, made_up_experiment

from benchmark.errors import BenchmarkError
from benchmark.files import write_text
from benchmark.numerics import area_versions
from benchmark.recipes import LoadedExperiment
from benchmark.records import State, read_record, write_record
from benchmark.reporting.collect import collect_run
from benchmark.reporting.status import RunStatus, StepStatus, collect_status, print_status
from benchmark.steps import Step


class OutOfMemoryError(RuntimeError):
    """Has the name of PyTorch's error."""


def entry(experiment: LoadedExperiment, row: str, seed: int = 0) -> RunStatus:
    return next(run for run in collect_status(experiment).tree if row in run.rows and run.seed == seed)


def step(experiment: LoadedExperiment, row: str, name: str) -> StepStatus:
    return next(item for item in entry(experiment, row).steps if item.name == name)


def text(experiment: LoadedExperiment) -> str:
    """The tree with lines so long that no path is broken."""
    file = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "1000")
        print_status(collect_status(experiment), file)
    return file.getvalue()


def test_nothing_done_is_a_tree_of_waiting_steps_with_every_base_once(experiment: LoadedExperiment) -> None:
    status = collect_status(experiment)
    assert (status.done, status.runs) == (0, 4)
    assert [(run.rows, run.seed) for run in status.tree] == [
        ([], 0),  # the pretraining
        (["softmax"], 0),
        (["softmax"], 1),
        (["sigmoid"], 0),
        (["bags"], 0),
    ]
    assert [item.name for item in status.tree[4].steps] == ["retrain", "predict", "evaluate"]
    assert {item.state for run in status.tree for item in run.steps} == {"waiting"}
    shown = text(experiment)
    assert "0 of 4 runs done" in shown
    assert "bags (BAGS, seed 0, from softmax): waiting" in shown
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_a_base_that_is_no_row_has_its_training_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    head, rows = EXPERIMENT.split("rows:\n")
    experiment = made_up_experiment(tmp_path, f"{head}rows:\n{rows.splitlines()[-1]}\n")
    pretraining, base, bags = collect_status(experiment).tree
    assert base.base == pretraining.folder
    assert (base.rows, [item.name for item in base.steps]) == ([], ["train"])
    assert bags.base == base.folder
    (run,) = experiment.rows[0].runs
    assert run.base is not None
    complete_stage(step_of(run.base, "train"))
    assert collect_status(experiment).tree[1].state == "done"


def test_the_status_and_the_table_agree(experiment: LoadedExperiment) -> None:
    first, second, sigmoid, bags = (run for row in experiment.rows for run in row.runs)
    complete_run(first, 0.5, 0.4)
    complete_run(bags, 0.5, 0.4)
    complete_stage(step_of(second, "train"))
    fail(step_of(sigmoid, "train"), BenchmarkError("bad image", where="a.png", remedy="fetch it"))
    (step_of(bags, "evaluate").folder / "metrics.json").write_text("{}")
    status = collect_status(experiment)
    table = [collect_run(run, None).state for run in (first, second, sigmoid, bags)]
    assert table == ["done", "missing", "failed", "failed"]
    assert [run.state for run in status.tree] == ["done", "done", "waiting", "failed", "failed"]
    assert (status.done, status.runs) == (1, 4)
    assert [item.state for item in status.tree[2].steps] == ["done", "waiting", "waiting"]


def test_bad_input_is_named_with_its_remedy_and_the_log(experiment: LoadedExperiment) -> None:
    (run,) = experiment.rows[1].runs
    made = step_of(run, "train")
    write_text(made.log, "error: ...")
    error = BenchmarkError("cannot decode the file of image 7", where="images/7.png", remedy="fetch it again")
    fail(made, error)
    found = step(experiment, "sigmoid", "train")
    assert found.cause == "cannot decode the file of image 7; where: images/7.png"
    assert found.advice == "fetch it again; then run the same command again"
    assert found.log == str(made.log)
    assert found.seconds is not None
    shown = text(experiment)
    for words in (
        "cause: cannot decode",
        "images/7.png",
        "advice: fetch it again",
        "log: results/logs/train/",
    ):
        assert words in shown


def test_out_of_memory_is_answered_with_the_next_batch_and_its_rate(experiment: LoadedExperiment) -> None:
    """The recipe has the reference batch size and learning rate; both are halved."""
    (run,) = experiment.rows[1].runs
    schedule = run.stages[0].schedule
    assert schedule is not None
    error = OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    fail(step_of(run, "train"), error)
    advice = step(experiment, "sigmoid", "train").advice or ""
    batch = schedule.reference_batch_size
    assert f"batch_size: {batch // 2} (now {batch})" in advice
    assert f"{schedule.learning_rate / 2:g} (now {schedule.learning_rate:g})" in advice
    fail(step_of(run, "predict"), error)
    complete_stage(step_of(run, "train"))
    assert "test_short_edge (now " in (step(experiment, "sigmoid", "predict").advice or "")


def test_divergence_shows_the_last_losses_and_what_to_change(experiment: LoadedExperiment) -> None:
    (run,) = experiment.rows[1].runs
    made = step_of(run, "train")
    lines = [json.dumps({"iteration": i, "loss": i / 10}) for i in (10, 20, 30, 40)]
    write_text(made.work / "progress.jsonl", "\n".join([*lines, '{"iteration": 50, "lo']))
    fail(made, Diverged("the loss diverged at iteration 47"))
    found = step(experiment, "sigmoid", "train")
    assert found.state == "diverged"
    assert "last losses 2 (iteration 20), 3 (iteration 30), 4 (iteration 40)" in (found.cause or "")
    schedule = run.stages[0].schedule
    assert schedule is not None
    assert f"learning_rate: {schedule.learning_rate / 2:g} (now {schedule.learning_rate:g})" in (
        found.advice or ""
    )


STEP = """
    import sys, time
    from pathlib import Path
    from benchmark.files import exclusive
    from benchmark.records import Subject, record_step
    folder, lock = map(Path, sys.argv[1:])
    subject = Subject(kind="train", step="train", key="0-0", identity="0")
    with exclusive(lock, folder), record_step(folder, subject):
        print("started", flush=True)
        time.sleep(600)
"""


@contextmanager
def at_work(made: Step) -> Iterator[subprocess.Popen[str]]:
    """Another process makes a step inside the block."""
    program = [sys.executable, "-c", textwrap.dedent(STEP), str(made.work), str(made.lock)]
    with subprocess.Popen(program, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        try:
            yield process
        finally:
            process.kill()


def change_record(made: Step, **changes: Any) -> None:
    record = read_record(made.record)
    assert record is not None
    write_record(made.record, record.model_copy(update=changes))


def test_a_running_training_shows_progress_and_a_killed_one_does_not_look_alive(
    experiment: LoadedExperiment,
) -> None:
    (run,) = experiment.rows[1].runs
    made = step_of(run, "train")
    with at_work(made) as process:
        assert step(experiment, "sigmoid", "train").progress is None
        line: dict[str, Any] = {"iteration": 40, "iterations": 450, "loss": 2.5, "seconds_left": 300.0}
        write_text(made.work / "progress.jsonl", json.dumps(line) + "\n")
        found = step(experiment, "sigmoid", "train")
        assert found.state == "running"
        assert found.progress is not None
        assert (found.progress.iteration, found.progress.iterations) == (40, 450)
        assert 200 < (found.progress.seconds_left or 0) <= 300
        assert "40 of 450 iterations, loss 2.500" in text(experiment)
        process.kill()
        process.wait()
    # even where its process id has been given to another process meanwhile
    change_record(made, pid=os.getppid())
    found = step(experiment, "sigmoid", "train")
    assert found.state == "interrupted"
    assert "ended without a message" in (found.cause or "")
    assert "continues from its last checkpoint" in (found.advice or "")


def test_a_step_on_another_machine_is_running_as_long_as_it_is_heard(experiment: LoadedExperiment) -> None:
    (run,) = experiment.rows[1].runs
    made = step_of(run, "train")
    fail(made, RuntimeError())
    change_record(made, state=State.running, host="elsewhere")
    assert step(experiment, "sigmoid", "train").state == "running"
    long_ago = time.time() - 3600
    os.utime(made.record, (long_ago, long_ago))
    assert step(experiment, "sigmoid", "train").state == "interrupted"


def test_numbers_of_older_code_are_said(
    experiment: LoadedExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = experiment.rows[1].runs
    complete_run(run, 0.5, 0.4)
    changed = area_versions() | {"training": "99"}
    monkeypatch.setattr("benchmark.steps.step.area_versions", lambda: changed)
    monkeypatch.setattr("benchmark.reporting.collect.area_versions", lambda: changed)
    found = entry(experiment, "sigmoid")
    assert found.state == "waiting"
    assert "numbers of other code: training" in (found.cause or "")
    assert "(now 99)" in text(experiment)
    assert collect_status(experiment).done == 0


def test_skipped_rows_give_the_reason_and_no_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTAIL_DATA", str(tmp_path / "nowhere"))
    rows = EXPERIMENT.replace("dataset: synthetic", "dataset: lvis_v0.5")
    experiment = made_up_experiment(tmp_path, rows)
    status = collect_status(experiment)
    assert {run.state for run in status.tree} == {"skipped"}
    assert not status.datasets
    assert "nowhere" in text(experiment)


def test_the_json_is_plain(experiment: LoadedExperiment) -> None:
    content = json.loads(json.dumps(collect_status(experiment).as_dict()))
    assert content["runs"] == 4
    assert content["tree"][0]["steps"][0] == {
        **dict.fromkeys(("seconds", "cause", "advice", "log", "host", "progress", "silent_s")),
        "name": "train",
        "state": "waiting",
    }
