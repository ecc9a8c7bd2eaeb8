"""Two workflows over one results folder: the second is refused, and harmless where it is forced."""

import time
from pathlib import Path

import pytest
import yaml
from project_copy import Project

from benchmark.recipes import load_experiment
from benchmark.reporting.collect import collect_run

ROW = {"id": "a", "method": "softmax", "detector": "torchvision/tiny_mask_rcnn", "dataset": "synthetic_tiny"}


@pytest.fixture
def experiments(prepared: Project) -> list[Path]:
    """Two experiments with the same run in them."""
    paths = [prepared.folder / f"{name}.yaml" for name in ("first", "second")]
    for path in paths:
        content = {"name": path.stem, "title": path.stem, "budget": "tiny", "rows": [ROW]}
        path.write_text(yaml.safe_dump(content))
    return paths


def table(project: Project, name: str) -> str:
    return (project.folder / f"results/experiments/{name}/table.md").read_text()


def temporary_files(project: Project) -> list[Path]:
    results = project.folder / "results"
    return [*results.rglob(".*.tmp"), *results.rglob(".*.lock"), *results.glob("work/*/*")]


def test_a_second_workflow_is_refused_while_the_first_runs(project: Project, experiments: list[Path]) -> None:
    first = project.start(experiment=experiments[0])
    while not list(project.folder.glob(".snakemake/locks/*.lock")):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.05)
    second = project.snakemake(experiment=experiments[1])
    assert second.returncode != 0
    assert "lock" in second.stdout.lower()
    text, _ = first.communicate()
    assert first.returncode == 0, text
    # afterwards the shared run is there, and only the table is left to do
    assert project.planned(experiment=experiments[1]) == {"table": 1, "all": 1}
    done = project.snakemake(experiment=experiments[1])
    assert done.returncode == 0, done.stdout
    assert "1 of 1 runs done" in table(project, "first")
    assert "1 of 1 runs done" in table(project, "second")
    assert not temporary_files(project)


def test_workflows_without_snakemakes_lock_do_not_corrupt_each_other(
    project: Project, experiments: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second at an output is refused or does it again; then a rerun finishes both."""
    monkeypatch.chdir(project.folder)
    together = [project.start("--nolock", experiment=path) for path in experiments]
    for process in together:
        process.communicate()
    for path in experiments:
        done = project.snakemake(experiment=path)
        assert done.returncode == 0, done.stdout
    results = [collect_run(load_experiment(str(path)).rows[0].runs[0], None) for path in experiments]
    assert all(result.done for result in results)
    assert not temporary_files(project)
