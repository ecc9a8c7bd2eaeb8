"""The experiment of the tests of reports."""

from pathlib import Path

import pytest
from reporting.results_tree import made_up_experiment

from benchmark.recipes import LoadedExperiment


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedExperiment:
    """The made-up experiment, without results, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return made_up_experiment(tmp_path)
