"""Shared set-up: one thread per process, so that numbers do not depend on the machine's load."""

import os
import sys
from pathlib import Path

import pytest

from benchmark.annotations import synthesize_dataset
from benchmark.recipes import find_run
from benchmark.recipes.models import Synthetic
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


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``train.json``, ``val.json`` and ``images``: photographs, where ``LONGTAIL_PHOTOS`` or
    ``../shared/photos`` has them, which are never copied; elsewhere generated stand-ins."""
    root = Path(__file__).resolve().parents[1]
    given = Path(os.environ.get("LONGTAIL_PHOTOS", root.parent / "shared" / "photos")).resolve()
    if (given / "train.json").is_file():
        return given
    folder = tmp_path_factory.mktemp("stand_ins")
    sizes = Synthetic(train_images=140, val_images=40, image_size=128, categories=40, seed=0)
    synthesize_dataset(sizes, folder)
    return folder
