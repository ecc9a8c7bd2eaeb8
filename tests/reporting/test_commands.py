"""The commands compare, verify, export and cite, and merged results of several machines."""

import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from places import made, step_of
from reporting.results_tree import EXPERIMENT, complete_run, detect_objects, made_up_experiment, write_images
from rocrate.rocrate import ROCrate
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.errors import BenchmarkError
from benchmark.evaluation.metrics import METRICS
from benchmark.files import sha256_file, write_json
from benchmark.recipes import LoadedExperiment, find_run
from benchmark.recipes.models import Deviation
from benchmark.records import read_record
from benchmark.reporting import write_report
from benchmark.reporting.collect import Reported, RowResult, RunResult
from benchmark.reporting.comparison import ComparisonError, compare
from benchmark.reporting.export import ExportError
from benchmark.reporting.verification import verdicts
from benchmark.steps import Means, make, steps_of


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedExperiment:
    monkeypatch.chdir(tmp_path)
    experiment = made_up_experiment(tmp_path)
    write_images(experiment.rows[0].runs[0].dataset)
    for row in experiment.rows:
        for run in row.runs:
            *before, evaluate = steps_of(run)
            complete_run(run, 0.5, 0.4, until=before)
            make(evaluate, Means())
    return experiment


def longtail(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    return done.exit_code, done.stdout


def test_compare_gives_paired_differences_and_the_categories_that_moved(experiment: LoadedExperiment) -> None:
    first, second = experiment.rows[0].runs[0], experiment.rows[2].runs[0]
    comparison = compare([first], [second])
    numbers = [json.loads(step_of(run, "evaluate").output().read_text())["segm"] for run in (first, second)]
    assert [item.metric for item in comparison.differences][:1] == ["AP"]
    for item in comparison.differences:
        assert (item.first, item.second) == pytest.approx([values[item.metric] for values in numbers])
        assert item.low <= item.second - item.first <= item.high
    changes = [item.second - item.first for item in comparison.moved]
    assert changes == sorted(changes, reverse=True)
    assert {item.frequency for item in comparison.moved} <= set("rcf")
    same = compare([first], [first])
    assert all(item.low == item.high == 0 for item in same.differences)
    assert not any(item.clear for item in comparison.differences)  # one seed


def test_compare_marks_only_differences_of_several_seeds_that_are_no_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over four seeds, 0.0 against less than 0.1 per cent is not marked; finding all objects is."""
    monkeypatch.chdir(tmp_path)
    seeds = re.sub(r"(, seeds: .*|, reported: .*)?}", ", seeds: [0, 1, 2, 3]}", EXPERIMENT)
    experiment = made_up_experiment(tmp_path, seeds)
    write_images(experiment.rows[0].runs[0].dataset)
    for row, wrong in zip(experiment.rows, (250, 100, 0), strict=True):
        for run in row.runs:
            *before, predict, evaluate = steps_of(run)
            complete_run(run, 0.5, 0.4, until=before)
            detect_objects(predict, wrong)
            make(evaluate, Means())
    for rows, marked in ((("softmax", "sigmoid"), False), (("softmax", "bags"), True)):
        status, text = longtail("compare", *(f"made_up.yaml:{row}" for row in rows))
        assert status == 0
        assert "(seeds 0, 1, 2, 3)" in text
        assert "95 % intervals over seeds and images" in text
        line = next(line for line in text.splitlines() if line.startswith("AP "))
        assert ("]  *" in line) == marked, line
        assert line.endswith(METRICS["AP"].meaning), line
    _, one = longtail("compare", "made_up.yaml:softmax:0", "made_up.yaml:bags:0")
    assert "one seed: no difference is marked" in one
    assert "]  *" not in one


def test_compare_prints_and_gives_json(experiment: LoadedExperiment) -> None:
    status, text = longtail("compare", "made_up.yaml:softmax", "made_up.yaml:bags")
    assert status == 0
    assert "BAGS (seed 0) minus Softmax (seed 0), masks" in text
    assert re.search(r"^AP +\d+\.\d -> +\d+\.\d +[+-]\d+\.\d \[", text, re.MULTILINE)
    _, text = longtail("compare", "made_up.yaml:softmax", "made_up.yaml:bags", "--json")
    assert json.loads(text)["iou"] == "segm"


def test_compare_says_in_a_line_that_nothing_was_detected(experiment: LoadedExperiment) -> None:
    comparison = compare(experiment.rows[0].runs, experiment.rows[1].runs)
    nothing = [replace(item, first=0.0, second=0.0, low=0.0, high=0.0) for item in comparison.differences]
    text = replace(comparison, differences=nothing).text()
    assert text.splitlines()[2:] == ["No detection matched an object in either: every number is 0."]


def test_compare_refuses_what_is_not_finished(experiment: LoadedExperiment) -> None:
    first, second = experiment.rows[0].runs[0], experiment.rows[1].runs[0]
    shutil.rmtree(step_of(second, "evaluate").folder)
    with pytest.raises(ComparisonError, match=r"(?s)no result.*next step: evaluate"):
        compare([first], [second])


def _row(experiment: LoadedExperiment, value: float) -> RowResult:
    row = replace(experiment.rows[2], comparable=True)
    run = row.runs[0].model_copy(update={"dataset_name": "lvis_v0.5"})
    numbers = {"segm": {"AP": value}}
    reported = Reported("lvis_v0.5", {"segm/AP": 26.0, "bbox/AP": 25.0}, {"segm/AP": 0.5, "bbox/AP": 0.5})
    done = RunResult(run, "done", None, numbers, 1.0, 1.0)
    return RowResult(row, [done], reported)


def test_a_number_that_leaves_its_tolerance_is_found(experiment: LoadedExperiment) -> None:
    inside, outside = verdicts([_row(experiment, 0.2649), _row(experiment, 0.2651)])
    assert (inside.within, outside.within) == (True, False)
    assert outside.ours == pytest.approx(26.51)
    assert "difference +0.51, OUTSIDE the tolerance of 0.5" in str(outside)


@pytest.mark.parametrize(
    ("effects", "said"),
    [
        ([], "tolerance of 0.5$"),
        ([[-0.4, -0.1], [-1.0, 0.0]], "2 declared deviations, whose effects could explain it"),
        ([[-0.4, 0.2]], "1 declared deviation, whose effects do not explain it"),
        ([[-0.4, 0.2], None], "2 declared deviations, whose effect on it is not known"),
        ([[-5.0, -4.0]], "1 declared deviation, whose effects do not explain it"),
    ],
)
def test_a_miss_is_judged_by_the_effects_but_stays_one(
    experiment: LoadedExperiment, effects: list[list[float] | None], said: str
) -> None:
    """1.5 below the published number, with a tolerance of 0.5."""
    declared = [
        Deviation(what=f"thing {number}", upstream="theirs", here="ours", source="a guess", effect=effect)
        for number, effect in enumerate(effects)
    ]
    row = _row(experiment, 0.245)
    (verdict,) = verdicts([replace(row, resolved=replace(row.resolved, deviations=declared))])
    assert (verdict.within, verdict.tolerance) == (False, 0.5)
    assert re.search(said, str(verdict)), str(verdict)


def test_verify_exits_with_1_unless_everything_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the paper's own schedule on its dataset; the numbers are written by hand."""
    monkeypatch.chdir(tmp_path)
    text = EXPERIMENT.replace("budget: smoke\n", "").replace("synthetic", "lvis_v0.5")
    experiment = made_up_experiment(tmp_path, text.replace("tiny_mask_rcnn", "mask_rcnn_r50_fpn"))
    assert longtail("verify", "made_up.yaml")[0] == 1  # nothing to verify is no success
    evaluate = steps_of(experiment.rows[2].runs[0])[-1]
    for value, status in ((0.2575, 0), (0.2, 1)):
        shutil.rmtree(evaluate.folder, ignore_errors=True)
        with made(evaluate) as folder:
            write_json(folder / "metrics.json", {"segm": {"AP": value}, "bbox": {"AP": 0.2576}})
        code, text = longtail("verify", "made_up.yaml")
        assert code == status
        assert "published 26.25" in text
        assert ("OUTSIDE" in text) == bool(status)


def test_export_holds_what_reproduces_a_row(experiment: LoadedExperiment, tmp_path: Path) -> None:
    run = experiment.rows[2].runs[0]
    status, _ = longtail("export", "made_up.yaml:bags", "-o", "cell.zip")
    assert status == 0
    with zipfile.ZipFile("cell.zip") as archive:
        archive.extractall(tmp_path / "cell")
    cell = tmp_path / "cell"
    again = find_run(str(cell / "recipe.json"))
    assert [step.place for step in steps_of(again)] == [step.place for step in steps_of(run)]
    assert str(Path.cwd()) not in (cell / "recipe.json").read_text()
    assert (cell / "metrics.json").read_text() == step_of(run, "evaluate").output().read_text()
    assert (cell / "methods" / "bags" / "classifier.py").is_file()
    assert (cell / "methods" / "softmax" / "classifier.py").is_file()  # what it starts from
    for step in steps_of(run):
        assert (cell / "records" / step.place / "record.json").is_file()
    assert len(list((cell / "records").rglob("progress.jsonl"))) == 3  # of two bases and its own
    commands = (cell / "commands.sh").read_text()
    made_steps = re.findall(r'^longtail make "\$here"/recipe.json (\S+)', commands, re.MULTILINE)
    assert made_steps == [step.place for step in steps_of(run)]
    subprocess.run(["bash", "-n", cell / "commands.sh"], check=True)
    for line in (cell / "hashes.sha256").read_text().splitlines():
        digest, _, path = line.partition("  ")
        assert sha256_file(path) == digest
    readme = (cell / "README.md").read_text()
    records = [read_record(path) for path in (cell / "records").rglob("record.json")]
    versions = {record.code_version.removesuffix("-dirty") for record in records if record is not None}
    assert re.search(r"^git checkout (\S+)$", readme, re.MULTILINE)[1] in versions
    assert "cp -r EXPORT/methods/. methods/" in readme
    assert ("git apply EXPORT/changes.patch" in readme) == (cell / "changes.patch").is_file()
    first = Path("cell.zip").read_bytes()
    longtail("export", "made_up.yaml:bags", "-o", "cell.zip")
    assert Path("cell.zip").read_bytes() == first
    with pytest.raises(ExportError, match="exists"):
        longtail("export", "made_up.yaml:bags", "-o", "cell")
    with pytest.raises(BenchmarkError, match="no result"):
        longtail("export", "made_up.yaml:bags:7", "-o", "other")
    assert not Path("other").exists()


def test_an_export_is_a_workflow_run_crate(experiment: LoadedExperiment) -> None:
    """The reference library finds every file, and every step with its inputs and outputs."""
    longtail("export", "made_up.yaml:bags", "-o", "cell")
    crate = ROCrate("cell")
    run = experiment.rows[2].runs[0]
    files = {path.relative_to("cell").as_posix() for path in Path("cell").rglob("*") if path.is_file()}
    assert {entity.id for entity in crate.get_by_type("File")} == files - {"ro-crate-metadata.json"}
    actions = {entity.id: entity for entity in crate.get_by_type("CreateAction")}
    assert actions.keys() == {"#run", *(f"#{step.place}" for step in steps_of(run))}
    predict = actions[f"#{step_of(run, 'predict').place}"]
    checkpoint = step_of(run, "retrain")
    assert f"#{checkpoint.place}/checkpoint.pt" in {item.id for item in predict["object"]}
    made_here = {item.id: item for item in predict["result"]}
    detections = made_here[f"#{step_of(run, 'predict').place}/detections.parquet"]
    assert detections["sha256"] == sha256_file(step_of(run, "predict").output())
    assert crate.mainEntity.id == "commands.sh"


def test_cite_names_every_paper_once() -> None:
    status, text = longtail("cite", "bags")
    assert status == 0
    assert text.count("@inproceedings{li2020overcoming,") == 1
    assert "@inproceedings{gupta2019lvis," in text
    assert "author        = {Agrim Gupta and Piotr Dollár and Ross Girshick}" in text
    keys = re.findall(r"@\w+{(\w+),", text)
    assert len(keys) == len(set(keys)) >= 2
    assert text.count("{") == text.count("}")


def test_results_of_two_machines_merge_by_copying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each machine made some of the rows; copying one folder over the other gives the table of all."""

    def work(name: str, choose: Callable[[str], bool]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        experiment = made_up_experiment(folder)
        for row in experiment.rows:
            for run in row.runs if choose(row.id) else []:
                complete_run(run, 0.5, 0.3)
        write_report(experiment)
        return folder

    one = work("one", lambda row: row == "softmax")
    other = work("other", lambda row: row != "softmax")
    whole = work("whole", lambda row: True)
    shutil.copytree(other / "results", one / "results", dirs_exist_ok=True)
    monkeypatch.chdir(one)
    merged = write_report(made_up_experiment(one))
    numbers = r"\d+ s|\d\.\d GB"  # the machines' own
    expected = (whole / "results/experiments/made_up/table.md").read_text()
    assert re.sub(numbers, "", merged) == re.sub(numbers, "", expected)
    assert "4 of 4 runs done" in merged
    page = (one / "results/experiments/made_up/report.html").read_text()
    assert np.char.count(page, '"state":"done"') >= 4
