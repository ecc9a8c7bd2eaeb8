"""Images per second and memory of predicting, with as many detections an image as LVIS allows."""

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from benchmark.annotations import vocabulary_hash
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
    case = training.CASES["dry" if dry else "cuda"][0]
    run = training.run_of(case)
    made_dataset(run.dataset)
    files = dataset_files(run.dataset)
    few, more = (1, 2) if dry else (21, 201)
    say(TEXT.format(few=few, more=more))
    annotations, statistics = read_training_data(run, files)
    torch.manual_seed(0)
    detector = build_detector(run, statistics)
    make_lively(cast(TwoStageDetector, detector))

    def cells() -> list[str]:
        forget_memory(device)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            checkpoint = place / "checkpoint.pt"
            content = checkpoints.finished(run, "train", detector, vocabulary_hash(annotations.categories))
            checkpoints.save(checkpoint, content)
            seconds, detections = [], []
            for count in (few, more):
                part = place / f"{count}.json"
                _cut(files.val, part, count)
                begin = time.perf_counter()
                facts = predict_dataset(
                    run,
                    replace(files, val=part),
                    checkpoint,
                    place / "detections.parquet",
                    workers=case.workers,
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


def _cut(file: Path, part: Path, count: int) -> None:
    """The first images of an annotation file, with all its categories."""
    content = json.loads(file.read_text())
    content["images"] = content["images"][:count]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in kept]
    part.write_text(json.dumps(content))
