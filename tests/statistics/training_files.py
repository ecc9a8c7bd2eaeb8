"""Annotation files with given counts, as small as possible."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_training_file(
    path: Path,
    category_ids: Sequence[int],
    instance_counts: Sequence[int],
    image_counts: Sequence[int] | None = None,
    image_ids: Sequence[int] = range(1, 1001),
    names: Sequence[str] | None = None,
) -> Path:
    """Write a file with categories in the given order.

    Extra instances of a category are on the first of its images. ``image_counts`` defaults to as many images
    as instances and images allow.
    """
    categories, references = [], []
    for number, (id_, instances) in enumerate(zip(category_ids, instance_counts, strict=True)):
        images = min(instances, len(image_ids)) if image_counts is None else image_counts[number]
        places = [image_ids[(37 * number + step) % len(image_ids)] for step in range(images)]
        places += places[:1] * (instances - images)
        references += [f'{{"image_id":{image},"category_id":{id_}}}' for image in places]
        name = names[number] if names else f"category {id_}"
        categories.append({"id": id_, "name": name, "instance_count": instances})
    content: dict[str, Any] = {
        "images": [{"id": image, "width": 64, "height": 48} for image in image_ids],
        "categories": categories,
    }
    path.write_text(f'{json.dumps(content)[:-1]}, "annotations": [{",".join(references)}]}}')
    return path
