"""Shared fixtures. One thread per process and no deadlines, so results do not depend on the load."""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

from benchmark.annotations import synthesize_dataset
from benchmark.recipes import find_run
from benchmark.recipes.models import Synthetic
from benchmark.steps import made_files

# a busy machine may take any time for an example
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SLOW = (
    "agreement",
    "annotations/test_subset.py",
    "annotations/test_synthetic.py",
    "canary/test_canary.py",
    "cluster",
    "datasets/test_coco_lt.py",
    "detectors/test_boxes.py",
    "detectors/test_contract.py",
    "detectors/test_detection_scores.py",
    "detectors/test_detectron2.py",
    "detectors/test_importing.py",
    "detectors/test_importing_into_mmdet.py",
    "detectors/test_initial_weights.py",
    "detectors/test_masks.py",
    "detectors/test_matching.py",
    "detectors/test_mmcv_ops.py",
    "detectors/test_mmdet.py",
    "faults",
    "inference/test_predict.py",
    "inference/test_shared_predictions.py",
    "methods/test_conformance.py",
    "methods/test_gol_family.py",
    "methods/test_loss_state.py",
    "methods/test_own_data.py",
    "recipes/test_against.py",
    "reporting/test_commands.py",
    "reporting/test_page.py",
    "steps/test_collection.py",
    "steps/test_intermediate_files.py",
    "steps/test_store.py",
    "test_cli.py",
    "test_contributing.py",
    "test_golden.py",
    "test_gpu.py",
    "test_planning.py",
    "test_processes.py",
    "test_reproduction.py",
    "test_wheel.py",
    "training/test_fitting.py",
    "training/test_meta.py",
    "training/test_reference_loop.py",
    "training/test_resume.py",
    "training/test_shared_passes.py",
    "training/test_stages.py",
    "training/test_workers.py",
    "workflow",
)
"""Folders and files that `make test-fast` does not even import: they train, run workflows or many commands,
or need a full-size detector. Elsewhere a test above two seconds has the mark itself."""

LONGEST = (
    "methods/test_conformance.py",
    "canary/test_canary.py",
    "test_contributing.py",
    "cluster/test_slurm.py",
    "test_gpu.py",
    "workflow/test_tiny.py",
    "training/test_shared_passes.py",
    "training/test_stages.py",
    "workflow/test_identity.py",
    "test_processes.py",
    "reporting/test_page.py",
    "training/test_workers.py",
    "workflow/test_back_ends.py",
    "workflow/test_concurrency.py",
    "faults/test_faults.py",
    "recipes/test_scaffold.py",
    "workflow/test_prepare_target.py",
    "workflow/test_plan.py",
    "workflow/test_photographs.py",
    "workflow/test_real_lvis.py",
)
"""Files that take a minute and more on one core, longest first. They are begun first, so that no worker is
left with one of them when the other has nothing more to do."""

os.environ.setdefault("OMP_NUM_THREADS", "1")  # nothing imported so far has started threads
FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))


def _is_slow(path: Path) -> bool:
    return any(path.is_relative_to(FOLDER / name) for name in SLOW)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.option.markexpr == "not slow" and _is_slow(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _is_slow(item.path):
            item.add_marker("slow")
    places = {FOLDER / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print every reason for skipped tests once, with the number of tests."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for reason, number in reasons.most_common():
        terminalreporter.write_line(f"{number} skipped: {reason}")


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the generated dataset ``synthetic_tiny``, its statistics and the tables of
    BAGS."""
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
    """A folder with ``train.json``, ``val.json`` and ``images``.

    Photographs from ``LONGTAIL_PHOTOS`` or ``../shared/photos`` if they exist (never copied), else generated
    images.
    """
    root = Path(__file__).resolve().parents[1]
    given = Path(os.environ.get("LONGTAIL_PHOTOS", root.parent / "shared" / "photos")).resolve()
    if (given / "train.json").is_file():
        return given
    folder = tmp_path_factory.mktemp("stand_ins")
    sizes = Synthetic(train_images=140, val_images=40, image_size=128, categories=40, seed=0)
    synthesize_dataset(sizes, folder)
    return folder
