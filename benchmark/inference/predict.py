"""From a checkpoint to detections of a whole validation split."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import distributed

from benchmark.annotations import Vocabulary, check_same_vocabulary, read_annotations, vocabulary_hash
from benchmark.detectors import Detections, build_detector
from benchmark.detectors.checkpoints import CheckpointError, conventions_of, load_weights, with_conventions
from benchmark.images import TestImages, load
from benchmark.inference.detections import DetectionWriter
from benchmark.processes import fabric_of
from benchmark.progress import tracked
from benchmark.recipes.models import Run
from benchmark.recipes.paths import DatasetFiles
from benchmark.statistics import ClassStatistics, read_tables


@torch.no_grad()
def predict_dataset(
    run: Run,
    files: DatasetFiles,
    checkpoint: Path,
    output: Path,
    *,
    workers: int,
    devices: int = 1,
) -> dict[str, Any]:
    """Write the detections of every validation image as Parquet, boxes and masks in original pixels.

    Several processes take images in turns and the first writes, in the order of the annotations: the file
    does not depend on their number.

    Args:
        run: the recipe.
        files: of its dataset.
        checkpoint: finished checkpoint of its last stage.
        output: the Parquet file.
        workers: data loading processes of each process.
        devices: processes that were started for this, one per GPU; 0 for the CPU even where there is a GPU.

    Returns:
        Facts for the record.

    Raises:
        BenchmarkError: the checkpoint, the images or the annotations do not fit the recipe.
    """
    fabric = fabric_of(devices)
    fabric.launch()
    first = fabric.is_global_zero
    annotations = read_annotations(files.val)
    statistics = ClassStatistics.read(files.statistics)
    check_same_vocabulary(
        statistics.as_vocabulary(f"training statistics {files.statistics}"),
        Vocabulary.of(f"validation annotations {annotations.path}", annotations.categories),
        CheckpointError,
        remedy="list the same categories with the same ids and names in both files",
    )
    as_trained = with_conventions(run, conventions_of(checkpoint))
    tables = read_tables(files.intermediates, run.intermediates, statistics)
    detector = build_detector(as_trained, statistics, initial_weights=False, tables=tables)
    load_weights(detector, checkpoint, run, vocabulary_hash(annotations.categories))
    detector.to(fabric.device).eval()
    data = TestImages(annotations, files.val_images, run.detector)
    loader = load(
        data,
        batch_size=None,
        sampler=range(fabric.global_rank, len(data), fabric.world_size),
        num_workers=workers,
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator(),
    )
    names = {category.id: category.name for category in annotations.categories}
    description = {
        "method": run.method,
        "variant": run.variant,
        "detector": run.detector_name,
        "dataset": run.dataset_name,
        "seed": run.seed,
    }
    masks = run.detector.masks
    with DetectionWriter(output, names, description, masks) if first else nullcontext() as writer:
        rounds = range(0, len(data), fabric.world_size)
        for number in tracked(rounds, f"images, {run.title} predict", each=fabric.world_size, shown=first):
            own: tuple[int, Detections] | None = None
            if number + fabric.global_rank < len(data):
                sample = next(loader)
                image, _ = sample.on(fabric.device)
                own = sample.image_id, detector.predict([image], [sample.size])[0]
            for item in _gathered(own, fabric):
                if writer is not None and item is not None:
                    image_id, found = item
                    add_detections(writer, image_id, found, annotations.category_ids)
    return {
        "images": len(data),
        "detections": writer.rows if writer is not None else None,
        "device": str(fabric.device),
        "threads": torch.get_num_threads(),
    }


def add_detections(
    writer: DetectionWriter, image_id: int, found: Detections, category_ids: NDArray[np.int64]
) -> None:
    """Write the detections of an image, their labels as the category ids (C,) of the ground truth."""
    boxes = found.boxes.clone()
    boxes[:, 2:] -= boxes[:, :2]
    ids = category_ids[found.labels.numpy()]
    writer.add(image_id, ids, found.scores.numpy(), boxes.numpy(), found.rles)


def _gathered(own: Any, fabric: Fabric) -> list[Any]:
    """What each process has, in order, on the first; nothing on the others."""
    if fabric.world_size == 1:
        return [own]
    items = [None] * fabric.world_size if fabric.is_global_zero else None
    distributed.gather_object(own, items)
    return items or []
