"""Shared set-up: one thread per process, so that numbers do not depend on the machine's load."""

import os
import sys
from pathlib import Path

import pytest

from benchmark.recipes import find_run
from benchmark.steps import made_files

os.environ.setdefault("OMP_NUM_THREADS", "1")  # nothing imported so far has started threads
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the generated dataset ``synthetic_tiny``, its statistics and BAGS' tables."""
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made_files(find_run(f"{Path(__file__).parent / 'workflow' / 'tiny.yaml'}:bags"))
    return folder


@pytest.fixture
def inside(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make that folder the working directory; tests only read from it."""
    monkeypatch.chdir(workplace)
    return workplace
