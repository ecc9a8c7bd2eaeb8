"""From a checkpoint to detections of a whole validation split."""

from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import track

from benchmark.annotations import Vocabulary, check_same_vocabulary, read_annotations, vocabulary_hash
from benchmark.detectors import build_detector
from benchmark.detectors.checkpoints import CheckpointError, conventions_of, load_weights, with_conventions
from benchmark.images import TestImages, load
from benchmark.inference.detections import DetectionWriter
from benchmark.recipes.models import Run
from benchmark.recipes.paths import annotations_path, images_folder, statistics_path
from benchmark.records import record_step
from benchmark.statistics import ClassStatistics


@torch.no_grad()
def predict_dataset(run: Run, checkpoint: Path, output: Path, *, workers: int) -> None:
    """Write the detections of every validation image as Parquet, boxes and masks in original pixels.

    Args:
        run: the recipe.
        checkpoint: finished checkpoint of its last stage.
        output: the Parquet file.
        workers: data loading processes.

    Raises:
        BenchmarkError: the checkpoint, the images or the annotations do not fit the recipe.
    """
    fabric = Fabric(accelerator="auto", devices=1)
    inputs = {
        "annotations": annotations_path(run.dataset, "val"),
        "statistics": statistics_path(run.dataset),
        "checkpoint": checkpoint,
    }
    recipe = run.model_dump(mode="json", by_alias=True) | {"digest": run.digest("predict")}
    with record_step(output, "predict", recipe, inputs) as record:
        annotations = read_annotations(inputs["annotations"])
        statistics = ClassStatistics.read(inputs["statistics"])
        check_same_vocabulary(
            statistics.spoken(f"training statistics {inputs['statistics']}"),
            Vocabulary.of(f"validation annotations {annotations.path}", annotations.categories),
            CheckpointError,
            remedy="use training and validation files of the same LVIS version",
        )
        as_trained = with_conventions(run, conventions_of(checkpoint))
        detector = build_detector(as_trained, statistics, initial_weights=False)
        load_weights(detector, checkpoint, run, vocabulary_hash(annotations.categories))
        detector.to(fabric.device).eval()
        data = TestImages(annotations, images_folder(run.dataset, "val"), run.detector)
        loader = load(
            data,
            batch_size=None,
            sampler=range(len(data)),
            num_workers=workers,
            generator=torch.Generator(),
        )
        names = {category.id: category.name for category in annotations.categories}
        description = {
            "method": run.method,
            "variant": run.variant,
            "detector": run.detector_name,
            "dataset": run.dataset_name,
            "seed": run.seed,
            "digest": run.digest("predict"),
        }
        console = Console(stderr=True)
        masks = run.detector.masks
        with DetectionWriter(output, names, description, masks) as writer:
            for sample in track(
                loader,
                f"{run.title} predict",
                total=len(data),
                console=console,
                disable=not console.is_terminal,
            ):
                (found,) = detector.predict([sample.image.to(fabric.device)], [sample.size])
                boxes = found.boxes.clone()
                boxes[:, 2:] -= boxes[:, :2]
                category_ids = annotations.category_ids[found.labels.numpy()]
                writer.add(sample.image_id, category_ids, found.scores.numpy(), boxes.numpy(), found.rles)
            record.add(images=len(data), detections=writer.rows, device=str(fabric.device))
