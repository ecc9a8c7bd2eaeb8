"""The report shows finished results, states what is not finished, and never shows outdated numbers."""

import csv
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from places import Diverged, fail, step_of
from reporting.results_tree import EXPERIMENT, complete_run, made_up_experiment

from benchmark.numerics import area_versions
from benchmark.recipes import LoadedExperiment
from benchmark.recipes.models import Run
from benchmark.recipes.paths import experiment_folder
from benchmark.records import State, read_record, record_step, write_record
from benchmark.reporting import write_report
from benchmark.reporting.collect import Reported, RowResult, RunResult
from benchmark.reporting.differences import Distinctions
from benchmark.reporting.report import ReportError, report_key
from benchmark.reporting.tables import markdown

PLOTS = ("ap_by_frequency", "ap_by_count", "weight_norms", "training_curves")


def runs(experiment: LoadedExperiment) -> list[Run]:
    return [run for row in experiment.rows for run in row.runs]


def finish_all(experiment: LoadedExperiment) -> None:
    for run, level in zip(runs(experiment), (0.5, 0.52, 0.48, 0.51), strict=True):
        complete_run(run, level, 0.4)


def line(text: str, row: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {row} "))


def test_nothing_done_is_a_table_of_missing_runs(experiment: LoadedExperiment) -> None:
    text = write_report(experiment)
    assert "0 of 4 runs done" in text
    assert "missing: next step: synthesize" in line(text, "bags")
    assert not list(experiment_folder("made_up").glob("plots/*"))


def test_finished_experiment_has_every_file_and_the_means(experiment: LoadedExperiment) -> None:
    finish_all(experiment)
    text = write_report(experiment)
    folder = experiment_folder("made_up")
    assert text.startswith("# Made-up numbers\n\n4 of 4 runs done")
    assert (folder / "table.md").read_text() == text
    for name in PLOTS:
        assert (folder / "plots" / f"{name}.png").stat().st_size > 10_000
        assert (folder / "plots" / f"{name}.svg").stat().st_size > 5_000
        assert (folder / "plots" / f"{name}.pdf").stat().st_size > 5_000
    assert (folder / "report.html").stat().st_size > 1_000_000
    values = [
        json.loads(step_of(run, "evaluate").output().read_text())["segm"] for run in runs(experiment)[:2]
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
    assert r"\textbf{" not in tex  # two rows of one seed
    assert "no two rows have 3 seeds" in tex
    assert "no two rows have 3 seeds" in text
    assert r"tiny\_mask\_rcnn" in tex


@pytest.mark.slow
def test_plots_have_the_same_bytes_each_time(experiment: LoadedExperiment, tmp_path: Path) -> None:
    finish_all(experiment)
    write_report(experiment, tmp_path / "a")
    write_report(experiment, tmp_path / "b")
    for name in PLOTS:
        for ending in ("svg", "pdf"):
            first, second = ((tmp_path / part / "plots" / f"{name}.{ending}").read_bytes() for part in "ab")
            assert first == second


DEVIATIONS = """deviations:
      - {what: Initial weights, upstream: of a zoo, here: of a hub, effect: [-0.3, 0.3], source: a guess}
      - {what: Box loss, upstream: L1_&, here: smooth L1, source: nobody}
"""


def deviating(folder: Path) -> LoadedExperiment:
    """An experiment whose last row, bags, has a published number and two deviations."""
    head, row = EXPERIMENT.rstrip().rsplit("\n  - ", 1)
    fields = "\n    ".join(row.strip("{}").split(", "))
    return made_up_experiment(folder, f"{head}\n  - {fields}\n    {DEVIATIONS}")


@pytest.mark.slow
def test_declared_deviations_are_footnotes_of_every_table(
    tmp_path: Path, experiment: LoadedExperiment
) -> None:
    experiment = deviating(tmp_path)
    finish_all(experiment)
    text = write_report(experiment)
    folder = experiment_folder("made_up")
    note = "Initial weights: upstream of a zoo; here of a hub; -0.3 to +0.3 AP (a guess)"
    assert "| BAGS [1, 2] |" in line(text, "bags")
    assert "[1" not in line(text, "softmax")
    assert f"- [1] {note}" in text
    assert "- [2] Box loss: upstream L1_&; here smooth L1; effect unknown (nobody)" in text
    tex = (folder / "table.tex").read_text()
    assert r"BAGS\textsuperscript{1,2} &" in tex
    assert rf"\textsuperscript{{1}}{note}" in tex
    assert r"\textsuperscript{2}Box loss: upstream L1\_\&" in tex
    assert note in (folder / "report.html").read_text()
    table = {row["row"]: row["deviations"] for row in csv.DictReader((folder / "table.csv").open())}
    assert table == {"softmax": "0", "sigmoid": "0", "bags": "2"}


PDFLATEX = shutil.which("pdflatex")


@pytest.mark.skipif(PDFLATEX is None, reason="no pdflatex here: apt-get install texlive-latex-recommended")
@pytest.mark.parametrize("as_it_is", [True, False])
def test_the_latex_table_compiles(experiment: LoadedExperiment, tmp_path: Path, as_it_is: bool) -> None:
    """Alone and inside a paper, with names that contain special characters of LaTeX."""
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


@pytest.mark.slow
def test_failed_steps_are_rows_with_their_reason(experiment: LoadedExperiment) -> None:
    first, second, sigmoid, bags = runs(experiment)
    complete_run(first, 0.5, 0.4)
    for run, step, error in (
        (second, "train", Diverged("loss is nan\nat 3")),
        (sigmoid, "train", OSError("disk")),
        (bags, "predict", KeyboardInterrupt()),
    ):
        fail(step_of(run, step), error)
    text = write_report(experiment)
    assert "1 of 4 runs done" in text
    assert "1 of 2 done; seed 1 diverged: train: Diverged: loss is nan" in line(text, "softmax")
    assert "failed: train: OSError: disk" in line(text, "sigmoid")
    assert "interrupted: predict: KeyboardInterrupt" in line(text, "bags")


@pytest.mark.slow
def test_numbers_that_were_changed_are_not_shown(experiment: LoadedExperiment) -> None:
    finish_all(experiment)
    first, _second, sigmoid, _bags = runs(experiment)
    step_of(sigmoid, "evaluate").output().write_text('{"segm": {"AP": 0.99}}')
    text = write_report(experiment)
    assert "3 of 4 runs done" in text
    assert "99.0" not in text
    assert "failed: the file of numbers has changed since the evaluation" in line(text, "sigmoid")
    record = step_of(first, "evaluate").record
    record.write_text("[]")
    assert "seed 0 failed: evaluate: not a record of a step" in line(write_report(experiment), "softmax")


def with_versions(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    changed = area_versions() | versions
    for module in ("steps.step", "reporting.collect"):
        monkeypatch.setattr(f"benchmark.{module}.area_versions", lambda: changed)


@pytest.mark.slow
def test_numbers_of_older_code_are_shown_and_marked(
    experiment: LoadedExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the table, the page and LaTeX; they do not count as done, and are not mixed with newer ones."""
    finish_all(experiment)
    before = write_report(experiment)
    with_versions(monkeypatch, training="99")
    text = write_report(experiment)
    assert "0 of 4 runs done" in text
    value = line(before, "bags").split(" | ")[7]
    assert line(text, "bags").split(" | ")[7] == value
    assert "numbers of other code: training " in line(text, "bags")
    assert "(now 99)" in line(text, "bags")
    assert "(older code)" in (experiment_folder("made_up") / "table.tex").read_text()
    table = {row["row"]: row for row in csv.DictReader((experiment_folder("made_up") / "table.csv").open())}
    assert float(table["bags"]["segm_AP"]) == pytest.approx(float(value), abs=0.051)
    assert "numbers of other code" in table["bags"]["reason"]
    assert '"older":"numbers of other code' in (experiment_folder("made_up") / "report.html").read_text()
    first, *_ = runs(experiment)
    complete_run(first, 0.7, 0.1)
    again = line(write_report(experiment), "softmax")
    assert "±" not in again  # the second seed is of older code
    assert "1 of 2 done; seed 1 numbers of other code" in again


@pytest.mark.slow
def test_the_stamp_of_a_table_changes_with_what_it_shows(
    experiment: LoadedExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(experiment)
    stamps = experiment_folder("made_up") / "made"
    assert not list(stamps.glob("*"))  # incomplete
    finish_all(experiment)
    before = report_key(experiment)
    write_report(experiment)
    assert [path.name for path in stamps.iterdir()] == [before]
    assert report_key(made_up_experiment(tmp_path)) == before
    assert report_key(made_up_experiment(tmp_path, EXPERIMENT.replace("Made-up", "Other"))) != before
    assert (
        report_key(made_up_experiment(tmp_path, EXPERIMENT.replace("seeds: [0, 1]", "seeds: [0]"))) != before
    )
    with_versions(monkeypatch, evaluation="99")
    assert report_key(experiment) != before


def test_killed_process_is_interrupted_and_living_one_running(experiment: LoadedExperiment) -> None:
    first, *_ = runs(experiment)
    step = step_of(first, "train")
    with record_step(step.work, step.subject):
        assert "seed 0: running: train" in write_report(experiment)
    record = read_record(step.record)
    assert record is not None
    gone = {"state": State.running, "pid": 2**22 + 1}  # above the highest process id
    write_record(step.record, record.model_copy(update=gone))
    assert "seed 0: interrupted: train: process" in write_report(experiment)


@pytest.mark.slow
def test_skipped_rows_give_the_reason_unless_results_came_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results were made on a machine with the data, and the store was copied here, where the data are
    missing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTAIL_DATA", str(tmp_path / "data"))
    text = EXPERIMENT.replace("dataset: synthetic}", "dataset: lvis_v0.5}").replace("budget: smoke\n", "")
    text = text.replace(
        "torchvision/tiny_mask_rcnn, dataset: lvis", "torchvision/faster_rcnn_r50_fpn, dataset: lvis"
    )
    experiment = made_up_experiment(tmp_path, text)
    (sigmoid,) = experiment.rows[1].runs
    assert "skipped: " in line(write_report(experiment), "sigmoid")
    (tmp_path / "data/lvis_v0.5").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / f"data/lvis_v0.5/lvis_v0.5_{split}.json").write_text(split)
    complete_run(sigmoid, 0.5, 0.3, masks=False)
    shutil.rmtree(tmp_path / "data")
    experiment = made_up_experiment(tmp_path, text)
    shown = line(write_report(experiment), "sigmoid")
    assert "skipped" not in shown
    assert "| box |" in shown
    table = {row["row"]: row for row in csv.DictReader((experiment_folder("made_up") / "table.csv").open())}
    assert table["sigmoid"]["segm_AP"] == ""
    assert float(table["sigmoid"]["bbox_APr"]) > 0


@pytest.mark.slow
def test_damaged_files_never_stop_the_report(experiment: LoadedExperiment) -> None:
    finish_all(experiment)
    first, _second, sigmoid, bags = runs(experiment)
    (step_of(first, "evaluate").folder / "per_class.csv").write_text("nothing")
    step_of(sigmoid, "evaluate").output().write_text("{")
    step_of(bags, "evaluate").record.write_text("[]")
    progress = step_of(first, "train").progress
    progress.write_text(progress.read_text() + '{"iteration": 460, "lo')  # being written
    text = write_report(experiment)
    assert "2 of 4 runs done" in text
    assert "failed: the file of numbers has changed since the evaluation" in line(text, "sigmoid")
    assert "failed: evaluate: not a record of a step" in line(text, "bags")
    assert "per_class.csv is not a table of categories" in text
    shutil.rmtree(step_of(sigmoid, "evaluate").folder)
    assert "missing" in line(write_report(experiment), "sigmoid")


def test_published_numbers_that_are_gone_are_asked_for(
    experiment: LoadedExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.reporting.report.project_root", lambda: tmp_path)
    with pytest.raises(ReportError, match=r"(?s)published numbers.*git checkout results/reported"):
        write_report(experiment)


def test_difference_only_where_the_paper_can_be_answered(experiment: LoadedExperiment) -> None:
    """With the same dataset and the published schedule."""
    row = experiment.rows[2]
    assert not row.comparable  # budget smoke
    reported = Reported("lvis_v0.5", {"segm/AP": 26.0}, {"segm/AP": 0.5})

    def result(comparable: bool, dataset: str, value: float) -> RowResult:
        run = row.runs[0].model_copy(update={"dataset_name": dataset})
        numbers = {"segm": {"AP": value}}
        done = RunResult(run, "done", None, numbers, 7260.0, 2048.0)
        return RowResult(replace(row, comparable=comparable), [done], reported)

    same = result(True, "lvis_v0.5", 0.2631)
    assert same.difference("segm/AP") == pytest.approx(0.31)
    assert result(False, "lvis_v0.5", 0.26).difference("segm/AP") is None
    assert result(True, "lvis_v1", 0.26).difference("segm/AP") is None
    text = markdown("t", [same, result(True, "lvis_v0.5", 0.2)], [], Distinctions())
    assert "| 26 | +0.3 | yes | done | 2 h 01 min | 2.0 GB |" in text
    assert "| -6.0 | no |" in text


@pytest.mark.slow
def test_rows_in_groups_have_their_headings_in_every_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Additional metrics are columns."""
    monkeypatch.chdir(tmp_path)
    last = "  - {id: again, method: softmax+rfs, detector: torchvision/tiny_mask_rcnn, dataset: synthetic}\n"
    settings = "group_by: touches\nmetrics: [AP-fixed, ECE]\nrows:\n" + last
    experiment = made_up_experiment(tmp_path, EXPERIMENT.replace("rows:\n", settings))
    for run, level in zip(runs(experiment), (0.5, 0.52, 0.48, 0.51, 0.4), strict=True):
        complete_run(run, level, 0.4)
    lines = [part for part in write_report(experiment).splitlines() if part.startswith("| ")][2:]
    assert [part.split(" | ")[0].strip("| ") for part in lines] == [
        "**baseline**", "softmax", "**loss**", "sigmoid", "**decoupled**", "bags", "**sampler**", "again",
    ]  # fmt: skip
    assert len({part.count("|") for part in lines}) == 1
    folder = experiment_folder("made_up")
    table = {row["row"]: row for row in csv.DictReader((folder / "table.csv").open())}
    assert [row["touches"] for row in table.values()] == ["baseline", "loss", "decoupled", "sampler"]
    tex = (folder / "table.tex").read_text().splitlines()
    assert r"Method & Detector & IoU & AP & APr & APc & APf & AP-fixed & ECE & box AP \\" in tex
    assert [part for part in tex if "emph" in part] == [
        rf"\multicolumn{{10}}{{l}}{{\emph{{{name}}}}} \\"
        for name in ("baseline", "loss", "decoupled", "sampler")
    ]
