"""Small real inputs that several tests share."""

import csv
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor

from benchmark.images import InstanceMasks
from benchmark.recipes.detector_settings import MaskTargets
from benchmark.recipes.project import project_root
from benchmark.statistics import ClassStatistics, frequency_letter


def statistics_of(
    instance_counts: Sequence[int], image_counts: Sequence[int] | None = None
) -> ClassStatistics:
    """Class statistics with given counts; ids from 1, as many images as instances unless given."""
    instances = np.asarray(instance_counts, np.int64)
    images = instances if image_counts is None else np.asarray(image_counts, np.int64)
    return ClassStatistics(
        category_ids=np.arange(1, len(instances) + 1),
        names=tuple(f"category_{i}" for i in range(1, len(instances) + 1)),
        frequencies=tuple(frequency_letter(int(count)) for count in images),
        image_counts=images,
        instance_counts=instances,
        num_images=int(images.sum()),
        num_annotated_images=int(images.sum()),
        num_annotations=int(instances.sum()),
        vocabulary="test",
    )


def published_detectors() -> set[str]:
    """The detectors of all published rows that have a recipe."""
    folder = project_root() / "results" / "reported"
    with (folder / "unanswered.csv").open() as file:
        unanswered = {(line["paper"], line["row"]) for line in csv.DictReader(file)}
    with (folder / "reported.csv").open() as file:
        lines = list(csv.DictReader(file))
    return {line["detector"] for line in lines if (line["paper"], line["row"]) not in unanswered}


def wait_for(process: subprocess.Popen[Any], sign: Callable[[], object], seconds: float = 120) -> None:
    """Wait until ``sign`` is true; fails if the process ends before, or after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not sign():
        assert process.poll() is None, (
            f"the process ended before it could be stopped: {process.communicate()[1]}"
        )
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def wait_for_success(process: subprocess.Popen[str]) -> None:
    """Wait for the end of a command with exit status 0. Reads its messages, so that no full pipe stops it."""
    _, messages = process.communicate()
    assert process.returncode == 0, messages


def all_ended(pids: Sequence[int], within: float = 30) -> bool:
    """Wait until processes have ended and been waited for; False if one is left after some seconds."""
    deadline = time.monotonic() + within
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def instance_masks(bitmaps: Tensor, way: MaskTargets = "coverage") -> InstanceMasks:
    """Masks of an image from bitmaps (n, H, W), 0 and 1."""
    codes = [coco_mask.encode(np.asfortranarray(bitmap.byte().numpy()))["counts"] for bitmap in bitmaps]
    return InstanceMasks.of(codes, *bitmaps.shape[1:], way)
