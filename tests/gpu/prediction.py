"""Images per second and memory of predicting, with as many detections an image as LVIS allows."""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from benchmark.annotations import read_annotations, subset_annotations, vocabulary_hash
from benchmark.detectors import build_detector, checkpoints
from benchmark.detectors.two_stage import TwoStageDetector
from benchmark.inference.predict import predict_dataset
from benchmark.steps import dataset_files, made_dataset
from benchmark.training.stages import read_training_data
from tests.agreement.comparison import make_lively
from tests.gpu.common import device_of, finish, forget_memory, largest_memory, say, table_of
from tests.performance import training

TEXT = """\
## Prediction

As above: from images on disk to Parquet with boxes and masks, one image at a time, with random weights that
detect something. The time of {more} images beyond that of {few}.
"""


def report(dry: bool) -> None:
    """One row."""
    device = device_of(dry)
    case = dict(training.CASES[device.type][0])
    run = training.run_of(case)
    made_dataset(run.dataset)
    files = dataset_files(run.dataset)
    few, more = (2, 6) if dry else (21, 201)
    say(TEXT.format(few=few, more=more))
    annotations, statistics = read_training_data(run, files)
    torch.manual_seed(0)
    detector = build_detector(run, statistics)
    make_lively(cast(TwoStageDetector, detector))
    categories = read_annotations(files.val).categories

    def cells() -> list[str]:
        forget_memory(device)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            checkpoint = place / "checkpoint.pt"
            content = checkpoints.finished(run, "train", detector, vocabulary_hash(annotations.categories))
            checkpoints.save(checkpoint, content)
            assert [item.id for item in categories] == [item.id for item in annotations.categories]
            seconds, detections = [], []
            for count in (few, more):
                part = place / f"{count}.json"
                subset_annotations(files.val, part, count, 0)
                begin = time.perf_counter()
                facts = predict_dataset(
                    run,
                    replace(files, val=part),
                    checkpoint,
                    place / "detections.parquet",
                    workers=case["workers"],
                    devices=0 if dry else 1,
                )
                finish(device)
                seconds.append(time.perf_counter() - begin)
                detections.append(facts["detections"])
        rate = (more - few) / (seconds[1] - seconds[0])
        each = (detections[1] - detections[0]) / (more - few)
        return [f"{rate:.1f}", f"{each:.0f}", largest_memory(device)]

    if not table_of(["", "images/s", "detections an image", "memory"], [("fp32", cells)]):
        sys.exit(1)
