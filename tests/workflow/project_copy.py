"""A copy of the project's workflow and methods, in which results and edits stay apart from the real one."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).with_name("tiny.yaml")


@dataclass(frozen=True)
class Project:
    """A folder with Snakefile, workflows/ and methods/."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which the copy's own ``benchmark`` comes first, if it has one."""
        return {**os.environ, "PYTHONPATH": str(self.folder)}

    def snakemake(
        self,
        *arguments: str,
        experiment: str | Path | None = "smoke",
        detector: str | None = None,
        profile: str | None = "local",
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake here; stdout and stderr come back as one text."""
        started = self.start(*arguments, experiment=experiment, detector=detector, profile=profile)
        return self._finished(started)

    def start(
        self,
        *arguments: str,
        experiment: str | Path | None = "smoke",
        detector: str | None = None,
        profile: str | None = "local",
    ) -> subprocess.Popen[str]:
        """Start Snakemake here."""
        profiles = ["--workflow-profile", f"workflows/profiles/{profile}"] if profile else []
        chosen = ["--config", f"experiment={experiment}"] if experiment else []
        chosen += [f"detector={detector}"] if detector else []
        return self._start("snakemake", *arguments, *profiles, *chosen)

    def longtail(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a command of the benchmark here; stdout and stderr come back as one text."""
        return self._finished(self._start("benchmark.cli", *map(str, arguments)))

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    @staticmethod
    def _finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        text, _ = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, text)

    def planned(self, *arguments: str, experiment: str | Path = "smoke") -> Counter[str]:
        """The jobs of a dry run as ``rule method`` or ``rule``, for example ``train bags``."""
        done = self.snakemake("-n", *arguments, experiment=experiment)
        assert done.returncode == 0, done.stdout
        jobs: Counter[str] = Counter()
        for job in re.split(r"\n\[[^\n]*\]\n", done.stdout)[1:]:
            rule = re.match(r"(?:local)?rule (\w+):", job)
            run = re.search(r"owner=(?:[^/,]+/){4}([^/]+)/seed", job)
            assert rule is not None
            assert "reason: " in job
            jobs[f"{rule[1]} {run[1]}" if run else rule[1]] += 1
        return jobs


def copy_project(folder: Path, *more: str) -> Project:
    """A copy without results; ``more`` are further folders, such as ``benchmark``."""
    for name in ("workflows", "methods", "envs", *more):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "results").mkdir()
    shutil.copytree(ROOT / "results" / "reported", folder / "results" / "reported")
    shutil.copy(ROOT / "Snakefile", folder)
    return Project(folder)
