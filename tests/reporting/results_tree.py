"""A results tree in the real file formats: 3 rows, 40 categories, made-up but plausible numbers."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.files import write_json, write_text
from benchmark.inference.detections import DetectionWriter
from benchmark.recipes import LoadedExperiment, load_experiment
from benchmark.recipes.models import Run
from benchmark.recipes.paths import checkpoint_path, run_folder, statistics_path
from benchmark.records import record_step
from benchmark.reporting.collect import lineage, own_stages
from benchmark.statistics import ClassStatistics, frequency_letter

COUNTS = np.geomspace(600, 1, 40).round().astype(int)
NAMES = {i + 1: f"category_{i + 1}" for i in range(len(COUNTS))}

EXPERIMENT = """name: made_up
title: Made-up numbers
budget: smoke
rows:
  - {id: softmax, method: softmax, detector: torchvision/tiny_mask_rcnn, dataset: synthetic, seeds: [0, 1]}
  - {id: sigmoid, method: sigmoid, detector: torchvision/tiny_mask_rcnn, dataset: synthetic}
  - {id: bags, method: bags, detector: torchvision/tiny_mask_rcnn, dataset: synthetic, reported: bags/20}
"""


def made_up_experiment(folder: Path, text: str = EXPERIMENT) -> LoadedExperiment:
    path = folder / "made_up.yaml"
    path.write_text(text)
    return load_experiment(str(path))


def write_statistics(run: Run) -> None:
    counts = np.asarray(COUNTS, np.int64)
    ClassStatistics(
        category_ids=np.array(list(NAMES), np.int64),
        names=tuple(NAMES.values()),
        frequencies=tuple(frequency_letter(int(count)) for count in counts),
        image_counts=counts,
        instance_counts=counts * 2,
    ).write(statistics_path(run.dataset))


def finish(run: Run, level: float, tail: float, masks: bool = True) -> None:
    """Write all that a finished run leaves; AP falls from ``level`` by ``tail`` over the categories."""
    write_statistics(run)
    for item in lineage(run):
        for stage in own_stages(item):
            finish_stage(item, stage.name)
    detect(run)
    evaluate(run, level, tail, masks)


def finish_stage(run: Run, stage: str) -> None:
    output = checkpoint_path(run, stage)
    if output.exists():
        return
    recipe = run.model_dump(mode="json", by_alias=True) | {"stage": stage, "digest": run.digest(stage)}
    with record_step(output, f"train {stage}", recipe, {}):
        write_text(output, "weights")
        generator = np.random.default_rng(sum(map(ord, run.method)) + run.seed)
        lines = []
        for iteration in range(10, 460 if stage == "base" or run.base is None else 160, 10):
            loss = 1.2 + 3 * np.exp(-iteration / 120) + generator.normal(0, 0.15)
            lines.append(
                json.dumps({"iteration": iteration, "loss": loss, "learning_rate": 0.1, "losses": {}})
            )
        write_text(output.with_name("progress.jsonl"), "\n".join(lines) + "\n")


def detect(run: Run, boxes: int = 1) -> None:
    output = run_folder(run) / "detections.parquet"
    recipe = run.model_dump(mode="json", by_alias=True) | {"digest": run.digest("predict")}
    with (
        record_step(output, "predict", recipe, {}),
        DetectionWriter(output, NAMES, {}, masks=False) as writer,
    ):
        writer.add(1, [1] * boxes, [0.5] * boxes, [[0, 0, 1, 1]] * boxes)


def evaluate(run: Run, level: float, tail: float, masks: bool = True) -> None:
    folder = run_folder(run)
    generator = np.random.default_rng(int(level * 1000) + run.seed)
    slope = np.log(COUNTS / COUNTS.max()) / np.log(COUNTS.max())
    ap = np.clip(level + tail * slope + generator.normal(0, 0.06, len(COUNTS)), 0, 1)
    ap[5] = np.nan
    letters = np.array([frequency_letter(int(count)) for count in COUNTS])
    numbers: dict[str, float | None] = {"AP": float(np.nanmean(ap))}
    numbers |= {f"AP{letter}": float(np.nanmean(ap[letters == letter])) for letter in "rcf"}
    kinds = ["bbox", "segm"] if masks else ["bbox"]
    with record_step(folder / "metrics.json", "evaluate", {}, {"detections": folder / "detections.parquet"}):
        write_json(folder / "metrics.json", dict.fromkeys(kinds, numbers))
    table = pd.DataFrame(
        {"id": list(NAMES), "name": list(NAMES.values())} | {f"{kind}_AP": ap for kind in kinds}
    )
    table.to_csv(folder / "per_class.csv", index=False)
