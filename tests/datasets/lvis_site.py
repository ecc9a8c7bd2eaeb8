"""A local web server with generated images and annotation archives like those of LVIS v1, and datasets that
use it."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from datasets.web_server import Files, serving_files

from benchmark.recipes.models import Synthetic

SIZES = Synthetic(train_images=60, val_images=30, image_size=64, categories=8, seed=0)
SUBSET = {"train_images": 20, "val_images": 10, "categories": 5, "seed": 0}
SPLITS = ("train", "val")


@contextmanager
def lvis_site(generated: Path, folder: Path) -> Iterator[Files]:
    """Serve the generated dataset: an archive for each split's annotations, and every image at its
    ``coco_url``, which alone names it. The datasets ``all`` and ``few``, its subset, are written into
    ``folder``."""
    with serving_files(Files({})) as site:
        archives = {}
        for split in SPLITS:
            content = json.loads((generated / f"{split}.json").read_text())
            for image in content["images"]:
                path = f"/{split}2017/{image['id']:012}.jpg"
                image["coco_url"] = f"{site.url}{path}"
                site.bodies[path] = (generated / "images" / image.pop("file_name")).read_bytes()
            archives[split] = packed(f"all_{split}.json", json.dumps(content))
            site.bodies[f"/all_{split}.json.zip"] = archives[split]
        places = {split: {"annotations": f"all/all_{split}.json", "images": "coco"} for split in SPLITS}
        files = [
            {
                "path": f"all/all_{split}.json",
                "archive": {
                    "url": f"{site.url}/all_{split}.json.zip",
                    "bytes": len(archives[split]),
                    "sha256": hashlib.sha256(archives[split]).hexdigest(),
                },
            }
            for split in SPLITS
        ]
        whole = {"name": "all", "title": "All", "categories": 8, "files": files, **places}
        (folder / "all.yaml").write_text(yaml.safe_dump(whole))
        write_subset(folder)
        yield site


def packed(name: str, text: str) -> bytes:
    """A zip archive of one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, text)
    return buffer.getvalue()


def write_subset(folder: Path, **changes: Any) -> None:
    """The dataset ``few``."""
    subset = {"of": "all", **SUBSET, **changes}
    places = {split: {"annotations": f"few/{split}.json", "images": "few/images"} for split in SPLITS}
    content = {"name": "few", "title": "Few", "categories": 5, "subset": subset, **places}
    (folder / "few.yaml").write_text(yaml.safe_dump(content))
