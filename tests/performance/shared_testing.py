"""Predictions made by one pass over the images, and each by a pass of its own; for ``shared_passes``."""

import json
import os
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import cast

import torch

from benchmark.annotations import read_annotations, vocabulary_hash
from benchmark.classifiers import CategoricalClassifier
from benchmark.detectors import Detector, build_detector, checkpoints
from benchmark.images import Sample, TestImages
from benchmark.inference.predict import PredictionJob, predict_together
from benchmark.recipes import find_run
from benchmark.recipes.catalog import detector_presets
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.sampling import seeded
from benchmark.statistics import ClassStatistics
from benchmark.steps import made_files

from .loading import lvis_files, write_images
from .measuring import ROOT, result_of, table

SPREAD, BACKGROUND = 2.0, 13.0
"""Deviation of the categories' logits, and the logit of the background, with which some 2 % of the scores of
a proposal are above LVIS' threshold, 1e-4."""


@dataclass(frozen=True)
class Size:
    """A detector, what it looks at, how many images of these, and the numbers of methods."""

    preset: str
    images: str
    count: int
    methods: tuple[int, ...]


SIZES = {
    "smoke": Size(
        "torchvision/tiny_mask_rcnn",
        "generated images of 160 pixels with 40 categories",
        count=11,
        methods=(1, 2, 4, 8, 12),
    ),
    "R50": Size(
        "torchvision/faster_rcnn_r50_fpn",
        "images of `lvis_val_100.json`, 480 pixels high, with 1230 categories",
        count=3,
        methods=(1, 2, 4, 8, 12),
    ),
    "R50 with masks": Size(
        "torchvision/mask_rcnn_r50_fpn",
        "images of `lvis_val_100.json`, 480 pixels high, with 1230 categories",
        count=2,
        methods=(1, 4),
    ),
}

TEXT = """\
### One pass, many predictions

Predictions with detectors that are equal but for their classifiers share a pass over the validation images:
trunk, proposals and box head are computed once, scores, suppression and masks for each method. Here K softmax
classifiers predict together, as the workflow lets them, and each alone; the files are compared, and equal to
the byte. CPU time of an image, loading and writing included, on one thread, median over all images but the
first. The weights are random; those of the classifiers are scaled so that some 2 % of a proposal's categories
pass the threshold. Masks are of each method's own detections, up to 300 an image: with the class-specific
boxes of R50 they take more time than all that is shared. Where categories share boxes (smoke), detections of
one proposal share its mask.

{sizes}

{table}"""


def predictions(size: Size, place: Path) -> list[PredictionJob]:
    """Of softmax classifiers with different weights on one detector, in a folder."""
    run = find_run("ablations:softmax")
    edges = (
        {"test_short_edge": 480, "long_edge": 4800, "init": "none"}
        if "r50" in size.preset
        else {"init": "none"}
    )
    settings = DetectorSettings(**(dict(detector_presets()[size.preset].settings) | edges))
    run = run.model_copy(update={"detector": settings, "detector_name": size.preset})
    if "r50" in size.preset:
        run = run.model_copy(update={"dataset": find_run("bags:1").dataset, "dataset_name": "lvis_v0.5"})
        write_images(place)
        files = lvis_files(place)
    else:
        files = made_files(run)
    files = replace(files, val=_first_images(files.val, size.count, place))
    annotations, statistics = read_annotations(files.val), ClassStatistics.read(files.statistics)
    detector = build_detector(run, statistics).eval()
    jobs = []
    for number in range(max(size.methods)):
        _change_classifier(detector, TestImages(annotations, files.val_images, settings)[0], number)
        checkpoint, output = place / f"{number}.pt", place / str(number) / "detections.parquet"
        vocabulary = vocabulary_hash(annotations.categories)
        checkpoints.save(checkpoint, checkpoints.finished(run, "train", detector, vocabulary))
        jobs.append(PredictionJob(run, files, checkpoint, output))
    return jobs


def _first_images(truth: Path, count: int, place: Path) -> Path:
    content = json.loads(truth.read_text())
    content["images"] = content["images"][:count]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in kept]
    path = place / "val.json"
    path.write_text(json.dumps(content))
    return path


@torch.no_grad()
def _change_classifier(detector: Detector, sample: Sample, number: int) -> None:
    """Give it other weights, with logits of the deviation wanted on the features of an image."""
    found: list[torch.Tensor] = []
    (classifier,) = (cast(CategoricalClassifier, item) for item in detector.classifiers)
    seen = classifier.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    image, _ = sample.on(torch.device("cpu"))
    detector.predict([image], [sample.size])
    seen.remove()
    linear = classifier.linear
    with seeded(number):
        linear.weight.normal_(0, SPREAD / float(found[0].norm(dim=1).mean()))
    linear.bias.zero_()
    linear.bias[-1] = BACKGROUND


def costs(name: str) -> list[tuple[int, float, float]]:
    """For every K: CPU seconds of an image with K methods together, and the sum of each alone.

    Raises ``RuntimeError`` where the files of one made alone and with the others differ.
    """
    size, stamps = SIZES[name], list[float]()
    load = TestImages.__getitem__

    def stamped(self: TestImages, index: int) -> Sample:
        stamps.append(time.process_time())
        return load(self, index)

    TestImages.__getitem__ = stamped  # type: ignore[method-assign]

    def predicted(jobs: list[PredictionJob]) -> tuple[float, list[bytes]]:
        """CPU seconds of an image, and the files."""
        stamps.clear()
        for job, facts in predict_together(jobs, workers=0, devices=0):
            assert not isinstance(facts, Exception), (job.output, facts)
        stamps.append(time.process_time())
        seconds = median(after - before for before, after in pairwise(stamps[1:]))
        return seconds, [job.output.read_bytes() for job in jobs]

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        jobs = predictions(size, Path(folder))
        alone = [predicted([job]) for job in jobs]
        together = {count: predicted(jobs[:count]) for count in size.methods if count > 1}
        os.chdir(ROOT)
    if any(files != [file for _, (file,) in alone[:count]] for count, (_, files) in together.items()):
        raise RuntimeError(f"detections made with others are not those made alone ({name})")
    seconds = {1: alone[0][0], **{count: each for count, (each, _) in together.items()}}
    return [(count, each, sum(one for one, _ in alone[:count])) for count, each in seconds.items()]


def section() -> str:
    """Markdown."""
    rows = []
    for name in SIZES:
        for count, each, apart in result_of("shared_testing", f"costs('{name}')"):
            cells = [f"{1000 * each:,.0f} ms", f"{1000 * apart:,.0f} ms", f"{apart / each:.1f}"]
            rows.append([f"{name}, K = {count}", *cells])
    sizes = "\n".join(
        f"- {name}: `{size.preset}`, {size.count} {size.images}" for name, size in SIZES.items()
    )
    return TEXT.format(
        sizes=sizes, table=table(["methods", "together", "each alone", "alone / together"], rows)
    )
