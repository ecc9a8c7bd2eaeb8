"""``longtail intermediates`` compared with the same tables from the official API's index, and reading the
bytes."""

import hashlib
import tempfile
from pathlib import Path

from .annotations import write_training_file
from .measuring import measure, table

IMAGES, ANNOTATIONS = 100_170, 1_270_141  # of LVIS v1's training file

# What the releases' scripts do with lvis-api: index the file, then the tables of four groups, the weights and
# the images of every class. In their favour whether an image was seen is looked up in a set, not in a list.
WITH_LVIS = """
import pickle, sys
import numpy as np, torch
np.float = float  # lvis 0.5.3 uses a name that NumPy has dropped
import lvis
api, out = lvis.LVIS(sys.argv[1]), sys.argv[2]
count = len(api.cats)
targets, slices = np.zeros((5, count + 1), np.int64), np.zeros((5, 2), np.int64)
targets[0, 1:] = 1
sizes, split, instances = [2, 1, 1, 1, 1], [[], [], [], []], np.ones(count + 1)
for class_, category in api.cats.items():
    instances[class_] = number = category["instance_count"]
    group = 1 + sum(number >= edge for edge in (10, 100, 1000))
    targets[group, class_] = sizes[group]
    sizes[group] += 1
    split[group - 1].append(class_)
slices[:, 0], slices[:, 1] = np.cumsum([0, *sizes[:-1]]), sizes
weight = 1 / np.maximum(instances, 1)
weight = np.clip(weight / weight[1:].mean(), 0.1, 5)
weight[0] = 1
index = {
    class_: {"image_info_id": [], "img_id": [], "isntance_count": 0, "category_id": class_}
    for class_ in range(count + 1)
}
seen = {c: set() for c in index}
annotated = [image for image in api.get_img_ids() if api.img_ann_map.get(image)]
for place, image in enumerate(annotated):
    for annotation in api.load_anns(api.get_ann_ids(img_ids=[image])):
        entry = index[annotation["category_id"]]
        if image not in seen[annotation["category_id"]]:
            seen[annotation["category_id"]].add(image)
            entry["img_id"].append(image)
            entry["image_info_id"].append(place)
        entry["isntance_count"] += 1
torch.save(torch.from_numpy(targets), f"{out}/label2binlabel.pt", _use_new_zipfile_serialization=False)
torch.save(torch.from_numpy(weight), f"{out}/cls_weight.pt", _use_new_zipfile_serialization=False)
with open(f"{out}/class_to_imageid_and_inscount.pt", "wb") as file:
    pickle.dump(index, file, protocol=3)
"""
OURS = """
import sys
from benchmark.cli import main
sys.argv = ["longtail", "intermediates", sys.argv[1], "-o", sys.argv[2], "--upstream"]
main()
"""
BYTES = """
import sys
with open(sys.argv[1], "rb", buffering=0) as file:
    while file.read(1 << 20):
        pass
"""
SAME = """
import sys, numpy as np
from benchmark.statistics.unpickling import read_objects
for name in ("label2binlabel.pt", "cls_weight.pt", "class_to_imageid_and_inscount.pt"):
    ours, theirs = (read_objects(f"{folder}/{name}") for folder in sys.argv[1:])
    print(np.array_equal(ours, theirs) if name != "class_to_imageid_and_inscount.pt" else ours == theirs)
"""


def section() -> str:
    """CPU time and peak memory at LVIS v1's size, and whether both wrote the same files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.json"
        write_training_file(path, IMAGES, ANNOTATIONS, seed=1)
        size = path.stat().st_size / 1e6
        (Path(folder) / "theirs").mkdir()
        ours = measure(OURS, str(path), f"{folder}/ours")
        theirs = measure(WITH_LVIS, str(path), f"{folder}/theirs")
        raw = measure(BYTES, str(path))
        same = measure(SAME, f"{folder}/ours", f"{folder}/theirs").output.split()
        index = "class_to_imageid_and_inscount.pt"
        digests = {
            hashlib.sha256((Path(folder) / maker / index).read_bytes()).hexdigest()
            for maker in ("ours", "theirs")
        }
    programs = {
        "`longtail intermediates --upstream` (our 7 files, 15 of the releases)": ours,
        "`lvis.LVIS(...)`, then targets, one weight table and the index": theirs,
        "read the bytes": raw,
    }
    rows = [
        [
            name,
            f"{item.cpu_seconds:.2f}",
            f"{item.wall_seconds:.2f}",
            f"{item.peak_megabytes:,.0f}",
            f"{item.cpu_seconds / ours.cpu_seconds:.2f}",
        ]
        for name, item in programs.items()
    ]
    verdict = "equal" if same == ["True"] * 3 else "DIFFERENT"
    to_the_byte = ", the index to the byte" if len(digests) == 1 else ""
    return (
        "## Intermediate files\n\n"
        f"A generated training file of LVIS v1's form, {size:,.0f} MB with {IMAGES:,} images and "
        f"{ANNOTATIONS:,} annotations. Whole processes, start-up included; memory is the largest resident "
        "set, of which a mapped file is a part. The three tables that both write are "
        f"{verdict}{to_the_byte}.\n\n"
        f"{table(['program', 'CPU s', 'wall s', 'peak MB', 'CPU time of ours'], rows)}"
    )
