"""Annotation files like those of LVIS v1 in any size, for measurements."""

import csv
import json
from pathlib import Path

import numpy as np

CATEGORIES = Path(__file__).parents[1] / "data" / "lvis_v1_categories.csv"
SHAPES = 4096
CHUNK = 50_000


def write_training_file(path: Path, images: int, annotations: int, seed: int) -> None:
    """Write an LVIS v1 training file: its categories, drawn as often as in LVIS, and polygons.

    An annotation has about 750 bytes, so that 1.27 million of them on 100,170 images make LVIS v1's
    gigabyte. Shapes repeat after 4,096, which no reader profits from. The category records hold the counts of
    this file. Memory stays far below the file's size.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    with CATEGORIES.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    weights = np.array([int(row["instance_count"]) for row in table], float)
    # sorted, because LVIS lists an image's annotations together
    owners = np.sort(generator.integers(images, size=annotations))
    labels = generator.choice(len(table), annotations, p=weights / weights.sum())
    shapes = [_shape(generator) for _ in range(SHAPES)]
    drawn = generator.integers(SHAPES, size=annotations)

    pairs = np.unique(owners * len(table) + labels)
    image_counts = np.bincount(pairs % len(table), minlength=len(table)).tolist()
    instance_counts = np.bincount(labels, minlength=len(table)).tolist()
    categories = [
        {
            "id": int(row["id"]),
            "name": row["name"],
            "synset": f"{row['name']}.n.01",
            "synonyms": [row["name"]],
            "def": f"a thing that is called {row['name']}",
            "frequency": row["frequency"],
            "image_count": image_counts[label],
            "instance_count": instance_counts[label],
        }
        for label, row in enumerate(table)
    ]
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "generated", "version": "v1"}, "annotations": [')
        for start in range(0, annotations, CHUNK):
            part = slice(start, start + CHUNK)
            rows = zip(owners[part].tolist(), labels[part].tolist(), drawn[part].tolist(), strict=True)
            file.write(", " if start else "")
            file.write(
                ", ".join(
                    f'{{{shapes[shape]}, "id": {start + number}, "image_id": {image + 1}, '
                    f'"category_id": {label + 1}}}'
                    for number, (image, label, shape) in enumerate(rows, start=1)
                )
            )
        file.write('], "images": [')
        for image in range(images):
            absent = np.unique(generator.integers(1, len(table) + 1, size=8)).tolist()
            name = f"train2017/{image + 1:012d}.jpg"
            record = {
                "id": image + 1,
                "width": 640,
                "height": 480,
                "license": 1,
                "date_captured": "2013-11-14 17:02:52",
                "coco_url": f"http://images.cocodataset.org/{name}",
                "flickr_url": f"http://farm1.staticflickr.com/1/{image + 1}_z.jpg",
                "neg_category_ids": absent[2:],
                "not_exhaustive_category_ids": absent[:2],
            }
            file.write((", " if image else "") + json.dumps(record))
        file.write(f'], "licenses": [], "categories": {json.dumps(categories)}}}')


def _shape(generator: np.random.Generator) -> str:
    """``bbox``, ``area`` and ``segmentation`` of a star-shaped polygon in an image of 640 x 480 pixels, as
    JSON."""
    points = int(np.clip(generator.lognormal(3.55, 0.7), 4, 250))
    size = np.exp(generator.uniform(np.log(4), np.log(110)))
    centre = generator.uniform(2 * size, [640 - 2 * size, 480 - 2 * size])
    angles = np.sort(generator.uniform(0, 2 * np.pi, points))
    radii = size * generator.uniform(0.7, 1.3, points)
    outline = (centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)).round(2)
    x, y = outline.T
    area = abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    record = {
        "area": round(area, 2),
        "segmentation": [outline.ravel().tolist()],
        "bbox": [round(float(value), 2) for value in (x.min(), y.min(), np.ptp(x), np.ptp(y))],
    }
    return json.dumps(record)[1:-1]
