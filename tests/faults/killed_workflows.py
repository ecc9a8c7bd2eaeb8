"""Kills whole workflows while they run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

from benchmark.recipes import load_experiment
from benchmark.reporting.collect import collect_run
from tests.workflow.project_copy import TINY, copy_project

from .commands import members
from .place import Place, claim

KILLS = 5
LIMIT = 3600.0
DETECTOR = "torchvision/tiny_mask_rcnn"
SHARING = f"  - {{id: others_1, method: bags+others_1, detector: {DETECTOR}, dataset: synthetic_tiny}}\n"
"""One more row, whose retraining shares a pass with that of the row ``bags``."""


def killed_workflows(place: Place) -> str:
    """Snakemake is killed with all its jobs, or told to stop, repeatedly; then the same call finishes."""
    shutil.rmtree(place.folder)
    project = copy_project(place.folder)
    os.chdir(place.folder)
    experiment = place.folder / TINY.name
    experiment.write_text(TINY.read_text() + SHARING)
    profile = ["--workflow-profile", "workflows/profiles/local", "--cores", "2"]
    command = [sys.executable, "-m", "snakemake", *profile, "--config", f"experiment={experiment}"]
    runs = {row.id: row.runs[0] for row in load_experiment(str(experiment)).rows}

    def start() -> subprocess.Popen[bytes]:
        with place.log.open("ab") as log:
            return subprocess.Popen(command, cwd=place.folder, stdout=log, stderr=log, start_new_session=True)

    def check(everything: bool) -> None:
        for name, run in runs.items():
            result = collect_run(run, None)
            claim(result.done or not everything, f"{name} is {result.state}: {result.reason}")
            wanted = place.reference.metrics[name] if result.done else {}
            claim(result.metrics == wanted, f"{name}: wrong numbers in the table")

    outcomes = []
    for _ in range(KILLS):
        process = start()
        jobs = len(list(project.folder.glob("results/logs/**/*.log")))
        deadline = time.monotonic() + LIMIT
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(project.folder.glob("results/logs/**/*.log"))) > jobs:
                break  # it has begun with a job
            time.sleep(0.1)
        with suppress(subprocess.TimeoutExpired):
            process.wait(place.draw.uniform(0, 20))
        if process.poll() is None:
            if place.draw.random() < 0.6:
                os.killpg(process.pid, signal.SIGKILL)
                outcomes.append("killed with all its jobs, finished when run again")
            else:
                os.killpg(process.pid, signal.SIGTERM)
                outcomes.append("told to stop, finished when run again")
            process.wait(LIMIT)
        claim(not members(process.pid) or _gone(process.pid), "processes outlive their workflow")
        check(everything=False)
        unlock = subprocess.run(
            [*command, "--unlock"], cwd=place.folder, capture_output=True, text=True, check=False
        )
        claim(unlock.returncode == 0, unlock.stdout + unlock.stderr)
    process = start()
    claim(process.wait(LIMIT) == 0, f"the workflow did not finish: {place.log}")
    check(everything=True)
    place.check_no_temporary()
    text = (project.folder / "results/experiments/tiny/table.md").read_text()
    claim("4 of 4 runs done" in text, text)
    return "\n".join(outcomes)


def _gone(session: int) -> bool:
    deadline = time.monotonic() + 15
    while members(session) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not members(session)
