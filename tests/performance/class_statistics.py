"""``longtail stats`` compared with the JSON reader alone, the index of the official API, and reading the
bytes."""

import tempfile
from pathlib import Path

import numpy as np

from .annotations import write_training_file
from .measuring import Measurement, measure, table

IMAGES, ANNOTATIONS = 100_170, 1_270_141  # of LVIS v1's training file
PARTS = (10, 3, 1)

# what runs, and what of it is start-up: the growth is that of the rest
PROGRAMS = {
    "`longtail stats`": (
        "import sys\nfrom benchmark.cli import main\nimport benchmark.statistics\n",
        "sys.argv = ['longtail', 'stats', sys.argv[1], '-o', sys.argv[2]]\nmain()\n",
    ),
    "msgspec alone, typed, the same fields": (
        "import mmap, msgspec, sys\n"
        "class Image(msgspec.Struct, gc=False):\n    id: int\n"
        "class Annotation(msgspec.Struct, gc=False):\n    image_id: int\n    category_id: int\n"
        "class Category(msgspec.Struct, gc=False):\n"
        "    id: int\n    name: str\n    frequency: str\n    image_count: int\n    instance_count: int\n"
        "class Content(msgspec.Struct, gc=False):\n"
        "    images: list[Image]\n    annotations: list[Annotation]\n    categories: list[Category]\n",
        "with open(sys.argv[1], 'rb') as file:\n"
        "    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "msgspec.json.decode(data, type=Content)\n",
    ),
    "`lvis.LVIS(...)`: load and index": (
        # lvis 0.5.3 uses a name that NumPy has dropped
        "import sys, numpy\nnumpy.float = float\nimport lvis\n",
        "lvis.LVIS(sys.argv[1])\n",
    ),
    "read the bytes": (
        "import sys\n",
        "with open(sys.argv[1], 'rb', buffering=0) as file:\n    while file.read(1 << 20):\n        pass\n",
    ),
}


def section() -> str:
    """CPU time, peak memory and growth over three sizes, the largest that of LVIS v1."""
    found: dict[str, list[Measurement]] = {name: [] for name in PROGRAMS}
    megabytes = []
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / "train.json", Path(folder) / "statistics.csv"
        for part in PARTS:
            write_training_file(path, IMAGES // part, ANNOTATIONS // part, seed=part)
            megabytes.append(path.stat().st_size / 1e6)
            for name, (imports, work) in PROGRAMS.items():
                found[name].append(measure(imports + work, str(path), str(output)))
    rows = []
    ours = found["`longtail stats`"][-1].cpu_seconds
    for name, (imports, _) in PROGRAMS.items():
        start_up = measure(imports).cpu_seconds
        net = [max(item.cpu_seconds - start_up, 1e-3) for item in found[name]]
        growth, _ = np.polyfit(np.log(megabytes), np.log(net), 1)
        last = found[name][-1]
        rows.append(
            [
                name,
                *(f"{item.cpu_seconds:.2f}" for item in found[name]),
                f"{last.peak_megabytes:,.0f}",
                f"{ours / last.cpu_seconds:.2f}",
                f"{growth:.2f}",
            ]
        )
    sizes = [f"CPU s, {size:,.0f} MB" for size in megabytes]
    columns = ["program", *sizes, "peak MB of the last", "`longtail stats` takes x of it", "growth exponent"]
    return (
        "## Statistics\n\n"
        f"Generated training files of LVIS v1's form, the largest with its {IMAGES:,} images and "
        f"{ANNOTATIONS:,} annotations. CPU seconds (user and system) of a process from its start; memory is "
        "the largest resident set, of which a mapped file is a part; the growth exponent is that of CPU time "
        "without start-up over file size.\n\n"
        f"{table(columns, rows)}"
    )
