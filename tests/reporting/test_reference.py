"""Numbers that ship with the project are written with their noise, and other results are judged by it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reporting.results_tree import EXPERIMENT, complete_run, made_up_experiment
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.errors import BenchmarkError
from benchmark.recipes import LoadedExperiment
from benchmark.reporting.collect import RowResult, RunResult, collect_row
from benchmark.reporting.reference import Shipped, read_reference, repeats, summary, write_reference


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedExperiment:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmark.reporting.reference.project_root", lambda: tmp_path)
    text = EXPERIMENT.partition("  - {id: sigmoid")[0].replace("[0, 1]", "[0, 1, 2]")
    experiment = made_up_experiment(tmp_path, text)
    for run, level in zip(experiment.rows[0].runs, (0.5, 0.52, 0.57), strict=True):
        complete_run(run, level, 0.4)
    return experiment


def row_of(experiment: LoadedExperiment, values: list[float]) -> RowResult:
    row = experiment.rows[0]
    runs = [
        RunResult(run, "done", None, {"segm": {"AP": value}}, 1.0, 1.0)
        for run, value in zip(row.runs, values, strict=False)
    ]
    return RowResult(row, runs)


def verified(*options: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["verify", "made_up.yaml", *options], catch_exceptions=False)
    return done.exit_code, done.stdout


def test_the_file_has_the_tables_numbers_and_verify_judges_by_it(experiment: LoadedExperiment) -> None:
    assert verified()[0] == 1  # nothing to verify
    path = write_reference(experiment)
    shipped = {item.metric: item for item in read_reference(path)}
    row = collect_row(experiment.rows[0], {})
    assert shipped.keys() == {"segm/AP", "segm/APr", "segm/APc", "segm/APf"}
    for metric, item in shipped.items():
        key = metric.partition("/")[2]
        assert item.mean == pytest.approx(100 * row.mean("segm", key), abs=1e-3)
        assert item.std == pytest.approx(100 * row.spread("segm", key), abs=1e-3)
        assert (item.over, item.seeds) == ("seeds", 3)
    assert verified("--summary") == (0, "within the noise of the published run: yes, for 1 of 1 rows\n")
    text = path.read_text()
    mean, std = shipped["segm/AP"].mean, shipped["segm/AP"].std
    path.write_text(
        text.replace(f"{mean:.3f},", f"{mean + 30 * std:.3f},").replace("evaluate/", "evaluate/0")
    )
    code, said = verified("--summary")
    assert code == 1
    assert "no, for 0 of 1 rows; not softmax; 1 of these rows are of another recipe or code" in said
    assert "softmax, segm/AP: " in verified()[1]
    path.write_text(text.replace(",seeds,", ",rows,"))
    with pytest.raises(BenchmarkError, match="bad line of shipped numbers"):
        read_reference(path)


def test_another_run_of_the_same_training_is_within_as_often_as_stated(experiment: LoadedExperiment) -> None:
    """Nine rows with one seed against five seeds of each: all nine are within tolerance in 95 % of the
    repetitions. A row that is worse by six standard deviations is found."""
    generator, repetitions, level, noise = np.random.default_rng(0), 150, 30.0, 2.0
    held = found = 0
    for _ in range(repetitions):
        shipped, rows = [], []
        for number in range(9):
            theirs, name = generator.normal(level, noise, 5), f"row{number}"
            std = float(np.std(theirs, ddof=1))
            shipped.append(Shipped(name, "segm/AP", float(theirs.mean()), std, "seeds", 5, ""))
            row = row_of(experiment, [generator.normal(level, noise) / 100])
            rows.append(
                replace(
                    row,
                    resolved=replace(row.resolved, entry=row.resolved.entry.model_copy(update={"id": name})),
                )
            )
        held += all(item.within for item in repeats(rows, shipped))
        worse = replace(shipped[0], mean=shipped[0].mean + 6 * noise)
        found += not repeats(rows, [worse, *shipped[1:]])[0].within
    assert held / repetitions >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / repetitions)
    assert found / repetitions > 0.9


def test_the_noise_of_one_seed_is_said_to_be_an_estimate(experiment: LoadedExperiment) -> None:
    shipped = [Shipped("softmax", "segm/AP", 30.0, 1.0, "images", 1, "")]
    (near,) = repeats([row_of(experiment, [0.325])], shipped)
    (far,) = repeats([row_of(experiment, [0.335])], shipped)
    assert near.tolerance == pytest.approx(1.96 * 2**0.5, abs=0.01)
    assert (near.within, far.within) == (True, False)
    assert "estimated from one seed" in summary([near])
    assert repeats([replace(row_of(experiment, []), runs=[])], shipped) == []
