"""An experiment on a real Slurm: a killed job becomes a row with a reason, and a rerun finishes it."""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from conftest import Slurm
from project_copy import Project, copy_project

from benchmark.records import Record, read_record

ROW = {
    "id": "softmax",
    "method": "softmax",
    "detector": "torchvision/tiny_mask_rcnn",
    "dataset": "synthetic_tiny",
}
EXPERIMENT = {"name": "cluster", "title": "Through Slurm", "budget": "tiny", "rows": [ROW]}
RUN = "results/runs/tiny/synthetic_tiny/torchvision/tiny_mask_rcnn/softmax/seed0"
CHECKPOINT_EVERY, ITERATIONS = 2, 40


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with its data made, and a training that is long enough to be cancelled."""
    project = copy_project(tmp_path)
    budget = project.folder / "workflows/budgets/tiny.yaml"
    content = yaml.safe_load(budget.read_text())
    content["all"] |= {"iterations": ITERATIONS, "checkpoint_every": CHECKPOINT_EVERY}
    content["classifier"] = content["all"]
    budget.write_text(yaml.safe_dump(content))
    (project.folder / "cluster.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    done = project.longtail("data", "prepare", "synthetic_tiny")
    assert done.returncode == 0, done.stdout
    return project


@contextmanager
def submit(project: Project, slurm: Slurm, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The experiment with the profile for Slurm, asked for news more often than a cluster would like."""
    program = [sys.executable, str(Path(__file__).with_name("impatient.py"))]
    program += ["--workflow-profile", "workflows/profiles/slurm"]
    program += ["--slurm-init-seconds-before-status-checks", "1", "--slurm-no-account"]
    program += ["--slurm-status-command", "squeue"]  # there is no accounting
    program += ["--config", "experiment=cluster.yaml", *arguments]
    process = subprocess.Popen(
        program,
        cwd=project.folder,
        env=slurm.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def states(slurm: Slurm) -> list[str]:
    """The states of all jobs so far, the newest last."""
    lines = slurm.call("squeue", "--noheader", "--states=all", "--format=%i %T").splitlines()
    return [line.split()[1] for line in sorted(lines, key=lambda line: int(line.split()[0]))]


def training(project: Project) -> Record:
    record = read_record(project.folder / RUN / "train/record.json")
    assert record is not None
    return record


def test_killed_for_memory_then_cancelled_then_finished(project: Project, slurm: Slurm) -> None:
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("snakemake-executor-plugin-slurm is not installed: extra [cluster]")
    with submit(project, slurm, "--set-resources", "train:mem_mb=200") as first:
        text, _ = first.communicate(timeout=900)
    assert first.returncode != 0, text
    before = states(slurm)
    assert len(before) == 2, (before, text)  # the rule tries once more by itself
    assert not {"COMPLETED", "RUNNING"} & set(before)
    assert "exceeded memory limit" in slurm.logs()
    table = project.folder / "results/experiments/cluster/table.md"
    assert "0 of 1 runs done" in table.read_text()

    with submit(project, slurm) as second:
        deadline = time.monotonic() + 600
        while not list(project.folder.glob("results/work/train/*/resume/*.sha256")):
            assert second.poll() is None, second.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (job,) = slurm.call("squeue", "--noheader", "--states=running", "--format=%i").split()
        slurm.call("scancel", job)
        text, _ = second.communicate(timeout=900)
    assert second.returncode == 0, text
    finished = ["train", "predict", "evaluate"]
    assert states(slurm)[2:] == ["CANCELLED", *["COMPLETED" for _ in finished]]
    record = training(project)
    assert record.state == "done"
    assert record.facts["resumed_at"] >= CHECKPOINT_EVERY
    assert "1 of 1 runs done" in table.read_text()
    assert not list(project.folder.glob("results/work/*/*"))
