"""The whole way once, for real, from synthetic data to the table; then what an edit reruns, and what not."""

import base64
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from project_copy import TINY, Project, copy_project

from benchmark.recipes import load_experiment
from benchmark.steps import steps_of

RUNS = "results/runs/tiny/synthetic_tiny/torchvision/tiny_mask_rcnn"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = copy_project(tmp_path_factory.mktemp("project"))
    done = project.snakemake(experiment=TINY)
    assert done.returncode == 0, done.stdout
    return project


def table(project: Project) -> str:
    return (project.folder / "results/experiments/tiny/table.md").read_text()


@contextmanager
def edited(path: Path, added: str) -> Iterator[None]:
    """Within it a file has ``added`` at its end; afterwards it is as it was, its time too."""
    before, times = path.read_text(), path.stat()
    path.write_text(before + added)
    try:
        yield
    finally:
        path.write_text(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def steps_of_method(method: str) -> set[str]:
    steps = ["retrain" if method == "bags" else "train", "predict", "evaluate"]
    return {f"{step} {method}" for step in steps}


def test_every_row_is_in_the_table_and_nothing_is_left_to_do(finished: Project) -> None:
    assert "3 of 3 runs done" in table(finished)
    for row in load_experiment(str(TINY)).rows:
        for step in steps_of(row.runs[0]):
            assert (finished.folder / step.log).is_file()
    assert not list((finished.folder / "results/work").glob("*/*"))
    # what a reader looks for is where it has its name
    assert json.loads((finished.folder / RUNS / "bags/seed0/evaluate/metrics.json").read_text())["segm"]
    assert (finished.folder / "results/data/synthetic_tiny/synthesize/train.json").is_file()
    assert finished.planned(experiment=TINY) == {}


def test_rows_that_are_added_share_a_pass(finished: Project, tmp_path: Path) -> None:
    """Two retrainings on the same features; a third is finished, and takes no part."""
    row = "  - {{id: {0}, method: bags+{0}, detector: torchvision/tiny_mask_rcnn, dataset: synthetic_tiny}}\n"
    experiment = tmp_path / TINY.name
    added = ("others_1", "all_others")
    experiment.write_text(TINY.read_text() + "".join(row.format(name) for name in added))
    trained = {"shared_pass bags": 1} | {f"retrain bags+{name}": 1 for name in added}
    assert finished.planned("--until", "retrain", experiment=experiment) == trained
    done = finished.snakemake("--until", "retrain", experiment=experiment)
    assert done.returncode == 0, done.stdout
    for name in added:
        folder = finished.folder / RUNS / f"bags+{name}" / "seed0" / "retrain"
        assert json.loads((folder / "record.json").read_text())["facts"]["shared_by"] == 2
    assert not list((finished.folder / "results/work").glob("*/*"))
    assert finished.planned("--until", "retrain", experiment=experiment) == {}


@pytest.mark.parametrize(
    ("method", "stale"),
    [
        ("sigmoid", steps_of_method("sigmoid")),
        ("softmax", steps_of_method("softmax") | steps_of_method("bags")),  # bags starts from softmax
    ],
)
def test_edited_code_makes_only_its_method_stale(finished: Project, method: str, stale: set[str]) -> None:
    with edited(finished.folder / f"methods/{method}/classifier.py", "# edited\n"):
        assert set(finished.planned(experiment=TINY)) == stale | {"table", "all"}


def test_a_job_that_outlived_its_workflow_does_not_hide_what_is_left_to_do(finished: Project) -> None:
    """Snakemake was killed, its training ended well: the next call does the rest, not that training alone."""
    trained = next(step for step in steps_of(load_experiment(str(TINY)).rows[0].runs[0]) if step.kind.trains)
    note = base64.urlsafe_b64encode(str(trained.done).encode()).decode()
    (finished.folder / ".snakemake/incomplete").mkdir(exist_ok=True)
    (finished.folder / ".snakemake/incomplete" / note).write_text(json.dumps({"external_jobid": None}))
    with edited(finished.folder / "methods/bags/classifier.py", "# edited\n"):
        assert set(finished.planned(experiment=TINY)) == steps_of_method("bags") | {"table", "all"}


def test_an_exported_row_is_reproduced_by_its_own_commands(finished: Project, tmp_path: Path) -> None:
    """In a fresh copy of the project, with nothing but the export: the same bytes of metrics and weights."""
    done = finished.longtail("export", f"{TINY}:bags", "-o", tmp_path / "cell")
    assert done.returncode == 0, done.stdout
    fresh = copy_project(tmp_path / "fresh")
    done = subprocess.run(
        ["bash", str(tmp_path / "cell" / "commands.sh")],
        cwd=fresh.folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "the same numbers" in done.stdout
    checked = ["sha256sum", "-c", str(tmp_path / "cell" / "hashes.sha256")]
    hashes = subprocess.run(checked, cwd=fresh.folder, capture_output=True, text=True, check=False)
    wrong = [line for line in hashes.stdout.splitlines() if not line.endswith(": OK")]
    assert wrong == []


def test_the_same_numbers_are_within_the_noise_of_the_published_run(finished: Project) -> None:
    """What `make smoke` ends with, at the size of the tests."""
    done = finished.longtail("reference", TINY)
    assert done.returncode == 0, done.stdout
    done = finished.longtail("verify", TINY, "--summary")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("within the noise of the published run: yes, for 3 of 3 rows")
    assert done.stdout.count("\n") == 1


def test_snakemakes_own_report(finished: Project) -> None:
    """It holds the page, the plots and every run's numbers, each in its category with its caption."""
    done = finished.snakemake("--report", "report.zip", experiment=TINY)
    assert done.returncode == 0, done.stdout
    with zipfile.ZipFile(finished.folder / "report.zip") as archive:
        names = archive.namelist()
        data = "".join(
            archive.read(name).decode(errors="replace") for name in names if name.endswith((".html", ".js"))
        )
    for category in ("Results", "Plots", "Runs"):
        assert category in data
    assert "works offline" in data
    assert any(name.endswith("report.html") and "/data/" in name for name in names)
    assert sum(name.endswith(".svg") and "/data/" in name for name in names) >= 3


def test_a_failed_run_is_a_row_with_its_reason_and_is_taken_up_again(finished: Project) -> None:
    """The last test here: it leaves a table with a failed run."""
    code = finished.folder / "methods/bags/classifier.py"
    with edited(code, 'raise RuntimeError("out of luck")\n'):
        done = finished.snakemake(experiment=TINY)
        assert set(finished.planned(experiment=TINY)) == {*steps_of_method("bags"), "table", "all"}
    assert done.returncode != 0
    assert "2 of 3 runs done" in table(finished)
    assert "out of luck" in table(finished)
    (log,) = [
        path.read_text()
        for path in finished.folder.glob("results/logs/retrain/*.log")
        if "out of luck" in path.read_text()
    ]
    assert "attempt 2 would fail as the one before it did" in log
    assert "out of luck" in log
    assert set(finished.planned(experiment=TINY)) == {"table", "all"}  # what it made before is still there
