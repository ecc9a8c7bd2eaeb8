"""An experiment's data are fetched, checked and recorded by one target; then its rows are planned on them."""

import json
from collections.abc import Iterator

import pytest
import yaml
from datasets.lvis_site import SIZES, lvis_site
from datasets.web_server import Files
from project_copy import Project, copy_project

from benchmark.annotations import synthesize_dataset

JOBS = {f"{step} softmax": 1 for step in ("train", "predict", "evaluate")}
REST = {"statistics": 1, **JOBS, "table": 1, "all": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Files]]:
    """A project with an experiment on a subset that a local server has; tests go through it in order."""
    folder = tmp_path_factory.mktemp("project")
    synthesize_dataset(SIZES, folder / "generated")
    (folder / "sets").mkdir()
    row = {"id": "a", "method": "softmax", "detector": "torchvision/tiny_mask_rcnn", "dataset": "few"}
    content = {"name": "mine", "title": "Mine", "budget": "tiny", "dataset_paths": ["sets"], "rows": [row]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch, lvis_site(folder / "generated", folder / "sets") as site:
        patch.delenv("LONGTAIL_DATA", raising=False)
        yield copy_project(folder), site


def planned(project: Project) -> dict[str, int]:
    return dict(project.planned(experiment="mine.yaml"))


def test_without_the_data_rows_are_skipped_and_prepare_is_a_target(place: tuple[Project, Files]) -> None:
    project, site = place
    assert planned(project) == {"table": 1, "all": 1}
    assert dict(project.planned("prepare", experiment="mine.yaml")) == {"prepare": 1}
    assert site.asked == []


def test_a_plan_says_what_is_missing_and_how_it_comes(place: tuple[Project, Files]) -> None:
    done = place[0].longtail("plan", "mine.yaml")
    assert done.returncode == 0, done.stdout
    assert "longtail data prepare few" in done.stdout


def test_prepare_gets_and_checks_the_data_and_is_resumed(place: tuple[Project, Files]) -> None:
    project, site = place
    site.faults = {path: ["404"] for path in list(site.bodies)[::5] if path.endswith(".jpg")}
    done = project.snakemake("prepare", experiment="mine.yaml")
    assert done.returncode != 0
    assert "missing" in done.stdout
    assert not list(project.folder.glob("results/store/check/*"))
    first = len(site.asked)
    done = project.snakemake("prepare", experiment="mine.yaml")
    assert done.returncode == 0, done.stdout
    assert 0 < len(site.asked) - first < first
    second = len(site.asked)
    assert project.snakemake("prepare", experiment="mine.yaml").returncode == 0
    assert len(site.asked) == second


def test_the_record_has_sizes_and_hashes(place: tuple[Project, Files]) -> None:
    (path,) = place[0].folder.glob("results/store/check/*/files.json")
    train, val, images = json.loads(path.read_text())
    assert [item["name"] for item in (train, val, images)] == ["few/train.json", "few/val.json", "few/images"]
    assert len(train["sha256"]) == 64
    assert images["images"] == 30
    folder = place[0].folder / "data/few"
    assert images["bytes"] == sum(path.stat().st_size for path in folder.rglob("*.jpg"))
    assert train["bytes"] == (folder / "train.json").stat().st_size


def test_the_rows_are_planned_on_what_was_checked(place: tuple[Project, Files]) -> None:
    project, _ = place
    assert planned(project) == REST
    (check,) = project.folder.glob("results/store/check/*")
    check.rename(project.folder / "kept")
    assert planned(project) == {"check": 1, **REST}
    (project.folder / "kept").rename(check)


def test_a_defect_is_found_before_any_training(place: tuple[Project, Files]) -> None:
    """In the files of validation, which would be read hours later."""
    project, _ = place
    val, before = project.folder / "data/few/val.json", (project.folder / "data/few/val.json").read_text()
    content = json.loads(before)
    content["annotations"][0]["segmentation"] = [[1.0, 2.0]]
    val.write_text(json.dumps(content))
    assert planned(project) == {"check": 1, **REST}
    done = project.snakemake(experiment="mine.yaml")
    assert done.returncode != 0
    assert not list(project.folder.glob("results/store/[!cs]*/*"))
    (log,) = [path.read_text() for path in project.folder.glob("results/logs/check/*.log")]
    assert "the files of dataset few have" in log
    assert f"annotation {content['annotations'][0]['id']}" in log
    done = project.longtail("plan", "mine.yaml")
    assert done.returncode == 2
    assert "problem: the files of dataset few have" in done.stdout
    val.write_text(before)
    assert planned(project) == REST  # nothing was lost


def test_own_files_are_checked_and_never_asked_for(place: tuple[Project, Files]) -> None:
    project, site = place
    asked = len(site.asked)
    content = yaml.safe_load((project.folder / "sets/few.yaml").read_text())
    del content["subset"]
    (project.folder / "sets/own.yaml").write_text(yaml.safe_dump({**content, "name": "own"}))
    mine = yaml.safe_load((project.folder / "mine.yaml").read_text())
    mine["name"], mine["rows"][0]["dataset"] = "own", "own"
    (project.folder / "own.yaml").write_text(yaml.safe_dump(mine))
    assert dict(project.planned(experiment="own.yaml")) == REST  # the same files: checked already
    done = project.snakemake("prepare", experiment="own.yaml")
    assert done.returncode == 0, done.stdout
    assert len(site.asked) == asked
