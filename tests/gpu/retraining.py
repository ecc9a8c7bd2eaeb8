"""Images per second and memory of training one classifier, and twelve in a shared pass."""

import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmark.annotations import vocabulary_hash
from benchmark.detectors import build_detector, checkpoints
from benchmark.recipes import find_run
from benchmark.steps import dataset_files, made_dataset
from benchmark.training import StageJob, train_stages
from benchmark.training.stages import read_training_data
from tests.gpu.common import device_of, forget_memory, largest_memory, say, table_of
from tests.performance import training
from tests.performance.shared_passes import changed_schedule, near_boxes_proposed
from tests.performance.steps import between_steps

CLASSIFIERS = (1, 12)
TEXT = """\
## Retraining classifiers

As above, on the features of the frozen detector; K classifiers with the focal loss share one pass over the
images. Images of the pass per second, over {measured} iterations after {warm_up}.
"""


def report(dry: bool) -> None:
    """A row for each number of classifiers."""
    device = device_of(dry)
    warm_up, measured = (1, 1) if dry else (8, 24)
    case = training.CASES["dry" if dry else "cuda"][-1]
    base = training.run_of(case)
    made_dataset(base.dataset)
    say(TEXT.format(warm_up=warm_up, measured=measured))
    run = find_run("ablations:focal_cls").model_copy(
        update={"detector": base.detector, "detector_name": base.detector_name, "dataset": base.dataset}
    )
    files = dataset_files(run.dataset)
    annotations, statistics = read_training_data(run, files)
    vocabulary = vocabulary_hash(annotations.categories)
    precision = case.precision

    def seconds(count: int) -> float:
        iterations = warm_up + measured
        timing = between_steps(count * warm_up, count * iterations, device.type)
        with tempfile.TemporaryDirectory() as folder, near_boxes_proposed(), timing as between:
            place = Path(folder)
            detector = build_detector(run, statistics)
            init = place / "base.pt"
            checkpoints.save(init, checkpoints.finished(run, "train", detector, vocabulary))
            runs = [changed_schedule(run, case.batch, n, iterations, precision) for n in range(count)]
            outputs = [place / str(number) / "checkpoint.pt" for number in range(count)]
            jobs = [
                StageJob(own, "retrain", files, output, init)
                for own, output in zip(runs, outputs, strict=True)
            ]
            for _, facts in train_stages(jobs, devices=0 if dry else 1, workers=case.workers):
                if isinstance(facts, Exception):
                    raise facts
        return between()

    def cells(count: int) -> list[str]:
        forget_memory(device)
        return [f"{measured * case.batch / seconds(count):.1f}", largest_memory(device)]

    rows = [(f"K = {count}, {precision}", partial(cells, count)) for count in CLASSIFIERS[: 1 if dry else 2]]
    if not table_of(["", "images/s", "memory"], rows):
        sys.exit(1)
