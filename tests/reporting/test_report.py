"""The report shows what is finished, says what is not, and never shows a number that is out of date."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from reporting.results_tree import EXPERIMENT, detect, evaluate, finish, made_up_experiment

from benchmark.recipes import LoadedExperiment
from benchmark.recipes.models import Run
from benchmark.recipes.paths import checkpoint_path, experiment_folder, record_path, run_folder
from benchmark.records import record_step
from benchmark.reporting import write_report
from benchmark.reporting.collect import Reported, RowResult, RunResult
from benchmark.reporting.tables import latex, markdown

PLOTS = ("ap_by_frequency", "ap_by_count", "weight_norms", "training_curves")


class Diverged(RuntimeError):
    state = "diverged"


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedExperiment:
    monkeypatch.chdir(tmp_path)
    return made_up_experiment(tmp_path)


def runs(experiment: LoadedExperiment) -> list[Run]:
    return [run for row in experiment.rows for run in row.runs]


def finish_all(experiment: LoadedExperiment) -> None:
    for run, level in zip(runs(experiment), (0.5, 0.52, 0.48, 0.51), strict=True):
        finish(run, level, 0.4)


def line(text: str, row: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {row} "))


def test_nothing_done_is_a_table_of_missing_runs(experiment: LoadedExperiment) -> None:
    text = write_report(experiment)
    assert "0 of 4 runs done" in text
    assert "missing: next step: softmax train" in line(text, "bags")
    assert not list(experiment_folder("made_up").glob("plots/*"))


def test_finished_experiment_has_every_file_and_the_means(experiment: LoadedExperiment) -> None:
    finish_all(experiment)
    text = write_report(experiment)
    folder = experiment_folder("made_up")
    assert "4 of 4 runs done" in text
    assert (folder / "table.md").read_text() == text
    for name in PLOTS:
        assert (folder / "plots" / f"{name}.png").stat().st_size > 10_000
        assert (folder / "plots" / f"{name}.svg").stat().st_size > 5_000
        assert (folder / "plots" / f"{name}.pdf").stat().st_size > 5_000
    assert (folder / "report.html").stat().st_size > 1_000_000
    values = [
        json.loads((run_folder(run) / "metrics.json").read_text())["segm"] for run in runs(experiment)[:2]
    ]
    table = {row["row"]: row for row in csv.DictReader((folder / "table.csv").open())}
    assert float(table["softmax"]["segm_AP"]) == pytest.approx(50 * sum(v["AP"] for v in values), abs=1e-3)
    spread = abs(values[0]["APr"] - values[1]["APr"]) / 2**0.5 * 100
    assert float(table["softmax"]["segm_APr_std"]) == pytest.approx(spread, abs=1e-3)
    assert "±" in line(text, "softmax")
    assert "±" not in line(text, "bags")
    assert "26.25" in line(text, "bags")  # the paper's number, but no difference: other budget, other dataset
    assert re.search(r"26\.25 \|  \|", line(text, "bags"))
    tex = (folder / "table.tex").read_text()
    assert r"\toprule" in tex
    assert r"\textbf{" in tex
    assert r"tiny\_mask\_rcnn" in tex


def test_plots_have_the_same_bytes_each_time(experiment: LoadedExperiment, tmp_path: Path) -> None:
    finish_all(experiment)
    write_report(experiment, tmp_path / "a")
    write_report(experiment, tmp_path / "b")
    for name in PLOTS:
        for ending in ("svg", "pdf"):
            first, second = ((tmp_path / part / "plots" / f"{name}.{ending}").read_bytes() for part in "ab")
            assert first == second


PDFLATEX = shutil.which("pdflatex")


@pytest.mark.skipif(PDFLATEX is None, reason="no pdflatex here: apt-get install texlive-latex-recommended")
@pytest.mark.parametrize("as_it_is", [True, False])
def test_the_latex_table_compiles(experiment: LoadedExperiment, tmp_path: Path, as_it_is: bool) -> None:
    """By itself, and where a paper takes it in; with characters that mean something to LaTeX in the names."""
    text = EXPERIMENT.replace("Made-up numbers", "100% of $_#&~^ {names}")
    experiment = made_up_experiment(tmp_path, text)
    finish_all(experiment)
    write_report(experiment)
    table = experiment_folder("made_up") / "table.tex"
    if as_it_is:
        source = table
    else:
        source = tmp_path / "paper.tex"
        source.write_text(
            "\\documentclass[twocolumn]{article}\\usepackage{booktabs}\\begin{document}"
            f"\\begin{{table*}}\\input{{{table}}}\\end{{table*}}After it.\\end{{document}}\n"
        )
    command = [str(PDFLATEX), "-halt-on-error", "-interaction=nonstopmode", f"-output-directory={tmp_path}"]
    done = subprocess.run([*command, source], capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 0, done.stdout
    assert "incomplete" not in done.stdout
    assert "Output written" in done.stdout


def test_failed_steps_are_rows_with_their_reason(experiment: LoadedExperiment) -> None:
    finish_all(experiment)
    _, second, sigmoid, bags = runs(experiment)
    for run, stage, error in (
        (second, "train", Diverged("loss is nan\nat 3")),
        (sigmoid, "train", OSError("disk")),
    ):
        with pytest.raises(type(error)), record_step(checkpoint_path(run, stage), f"train {stage}", {}, {}):
            raise error
    with (
        pytest.raises(KeyboardInterrupt),
        record_step(run_folder(bags) / "detections.parquet", "predict", {}, {}),
    ):
        raise KeyboardInterrupt
    text = write_report(experiment)
    assert "1 of 4 runs done" in text
    assert "1 of 2 done; seed 1 diverged: train: Diverged: loss is nan" in line(text, "softmax")
    assert "failed: train: OSError: disk" in line(text, "sigmoid")
    assert "interrupted: predict: KeyboardInterrupt" in line(text, "bags")
    assert not re.search(r"\d\.\d", line(text, "bags").split("| 26.25")[0])  # the old number is gone


def test_numbers_of_other_detections_or_recipes_are_stale(
    experiment: LoadedExperiment, tmp_path: Path
) -> None:
    finish_all(experiment)
    first, second, sigmoid, bags = runs(experiment)
    detect(first, boxes=2)  # predicted again, not evaluated again
    record_path(run_folder(second) / "metrics.json").unlink()
    (run_folder(sigmoid) / "detections.parquet").unlink()
    text = write_report(experiment)
    assert "0 of 4" in text or "1 of 4" in text
    assert "softmax, seed 0: stale: metrics.json was computed from other detections" in text
    assert "softmax, seed 1: stale: metrics.json has no record" in text
    assert "sigmoid, seed 0: stale: the detections of metrics.json are gone" in text
    evaluate(first, 0.5, 0.4)
    assert "1 of 2 done" in line(write_report(experiment), "softmax")
    path = record_path(run_folder(bags) / "detections.parquet")
    record = json.loads(path.read_text())
    record["recipe"]["digest"] = "0" * 16
    path.write_text(json.dumps(record))
    assert "stale: predict was made with another recipe" in line(write_report(experiment), "bags")


def test_killed_process_is_interrupted_and_living_one_running(experiment: LoadedExperiment) -> None:
    first, *_ = runs(experiment)
    output = checkpoint_path(first, "train")
    with record_step(output, "train train", {}, {}):
        assert "seed 0: running: train" in write_report(experiment)
        record = json.loads(record_path(output).read_text())
    record |= {"state": "running", "pid": 2**22 + 1}  # above the highest process id
    record_path(output).write_text(json.dumps(record))
    assert "seed 0: interrupted: train: process" in write_report(experiment)


def test_skipped_rows_give_the_reason_unless_results_came_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTAIL_DATA", str(tmp_path / "nowhere"))
    text = EXPERIMENT.replace("dataset: synthetic}", "dataset: lvis_v0.5}").replace("budget: smoke\n", "")
    text = text.replace(
        "torchvision/tiny_mask_rcnn, dataset: lvis", "torchvision/faster_rcnn_r50_fpn, dataset: lvis"
    )
    experiment = made_up_experiment(tmp_path, text)
    (sigmoid,) = experiment.rows[1].runs
    assert "skipped: " in line(write_report(experiment), "sigmoid")
    finish(sigmoid, 0.5, 0.3, masks=False)
    shown = line(write_report(experiment), "sigmoid")
    assert "skipped" not in shown
    assert "| box |" in shown
    table = {row["row"]: row for row in csv.DictReader((experiment_folder("made_up") / "table.csv").open())}
    assert table["sigmoid"]["segm_AP"] == ""
    assert float(table["sigmoid"]["bbox_APr"]) > 0


def test_damaged_files_never_stop_the_report(experiment: LoadedExperiment) -> None:
    finish_all(experiment)
    first, _second, sigmoid, bags = runs(experiment)
    (run_folder(first) / "per_class.csv").write_text("nothing")
    (run_folder(sigmoid) / "metrics.json").write_text("{")
    record_path(run_folder(bags) / "metrics.json").write_text("[]")
    progress = checkpoint_path(first, "train").with_name("progress.jsonl")
    progress.write_text(progress.read_text() + '{"iteration": 460, "lo')  # being written
    text = write_report(experiment)
    assert "2 of 4 runs done" in text
    assert "stale: metrics.json is not what was evaluated" in line(text, "sigmoid")
    assert "failed: evaluate: not a record of a step" in line(text, "bags")
    assert "per_class.csv is not a table of categories" in text
    shutil.rmtree(run_folder(sigmoid))
    assert "missing" in line(write_report(experiment), "sigmoid")


def test_difference_only_where_the_paper_can_be_answered(experiment: LoadedExperiment) -> None:
    """Same dataset, the paper's own budget; ties for the best value are all bold."""
    row = experiment.rows[2]
    reported = Reported("lvis_v0.5", {"segm/AP": 26.0}, {"segm/AP": 0.5})

    def result(budget: str, dataset: str, value: float) -> RowResult:
        run = row.runs[0].model_copy(update={"budget": budget, "dataset_name": dataset})
        numbers = {"segm": {"AP": value}, "bbox": {"AP": value}}
        return RowResult(
            row, [RunResult(run, "done", None, numbers, 7260.0, 2048.0)], reported, {("segm", "AP"): [value]}
        )

    same = result("paper", "lvis_v0.5", 0.2631)
    assert same.difference("segm/AP") == pytest.approx(0.31)
    assert result("smoke", "lvis_v0.5", 0.26).difference("segm/AP") is None
    assert result("paper", "lvis_v1", 0.26).difference("segm/AP") is None
    text = markdown("t", [same, result("paper", "lvis_v0.5", 0.2)], [])
    assert "| 26 | +0.3 | yes | done | 2 h 01 min | 2.0 GB |" in text
    assert "| -6.0 | no |" in text
    tied = latex("t", [same, result("paper", "lvis_v0.5", 0.2629), result("paper", "lvis_v0.5", 0.25)])
    assert tied.count(r"\textbf{26.3}") == 2
