"""Garbage is what no experiment refers to; in doubt nothing is removed."""

from pathlib import Path

import pytest
import yaml
from places import fabricate

from benchmark.errors import BenchmarkError
from benchmark.recipes import find_run, load_experiment
from benchmark.recipes.catalog import yaml_files
from benchmark.recipes.models import Run
from benchmark.records import record_step
from benchmark.reporting import write_report
from benchmark.steps import link, steps_of
from benchmark.steps.collection import collect_garbage
from benchmark.steps.step import source_hashes_folder

ROW = {"id": "a", "method": "softmax", "detector": "torchvision/tiny_mask_rcnn", "dataset": "synthetic_tiny"}


def experiment(name: str, **row: object) -> Path:
    """An experiment in the working directory; nothing else refers to its runs."""
    content = {"name": name, "title": name, "budget": "tiny", "rows": [ROW | row]}
    path = Path(f"{name}.yaml")
    path.write_text(yaml.safe_dump(content))
    return path


def finished(path: Path) -> Run:
    run = find_run(f"{path}:a")
    for step in steps_of(run):
        fabricate(step)
    link(run)
    return run


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty place. Of the project's experiments one is read: all of them take ten seconds a time."""
    monkeypatch.chdir(tmp_path)
    shipped = {"seesaw": yaml_files("experiments")["seesaw"]}
    monkeypatch.setattr("benchmark.steps.collection.yaml_files", lambda _: shipped)


def is_there(run: Run) -> list[bool]:
    return [step.finished for step in steps_of(run)]


def test_only_what_no_experiment_refers_to_is_removed() -> None:
    mine, other = finished(experiment("mine")), finished(experiment("other", seeds=[3]))
    found = collect_garbage(["mine.yaml"], remove=False).text()
    assert "would be removed" in found
    assert all([*is_there(mine), *is_there(other)])
    found = collect_garbage(["mine.yaml"], remove=True).text()
    assert all(is_there(mine))
    assert is_there(other) == [True, True, False, False, False]  # they share the dataset
    assert found.splitlines()[-1].endswith("in 3 folders removed")
    assert not [path for path in Path("results/runs").rglob("*") if path.is_symlink() and not path.exists()]


def test_experiments_with_tables_are_referred_to_without_being_named() -> None:
    path = experiment("mine")
    run = finished(path)
    write_report(load_experiment(str(path)))
    collect_garbage([], remove=True)
    assert all(is_there(run))


def test_results_of_older_code_stay_until_there_are_newer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.numerics import area_versions

    path = experiment("mine")
    before = steps_of(finished(path))[-1].folder
    changed = area_versions() | {"evaluation": "99"}
    monkeypatch.setattr("benchmark.steps.step.area_versions", lambda: changed)
    collect_garbage([str(path)], remove=True)
    assert before.is_dir()
    finished(path)
    collect_garbage([str(path)], remove=True)
    assert not before.exists()


def test_unfinished_work_stays_if_it_is_referred_to_or_under_way() -> None:
    mine, other = find_run(f"{experiment('mine')}:a"), find_run(f"{experiment('other', seeds=[3])}:a")
    steps = [steps_of(run)[-1] for run in (mine, other)]
    for step in steps:
        with pytest.raises(RuntimeError), record_step(step.work, step.subject):
            raise RuntimeError
    collect_garbage(["mine.yaml"], remove=True)
    assert [step.work.exists() for step in steps] == [True, False]


def test_an_experiment_that_cannot_be_read_stops_everything() -> None:
    run = finished(experiment("mine"))
    Path("mine.yaml").write_text("name: [")
    with pytest.raises(BenchmarkError, match=r"mine\.yaml"):
        collect_garbage(["mine.yaml"], remove=True)
    assert all(is_there(run))


def test_results_of_data_that_are_not_here_are_not_taken_for_garbage() -> None:
    """If a data disk is not mounted, the keys of results made from it are unknown."""
    for content in ("0" * 64, "1" * 64):
        path = source_hashes_folder("lvis_v1/lvis_v1_val.json") / content
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(BenchmarkError, match="cannot tell which results are unused"):
        collect_garbage([], remove=True)
