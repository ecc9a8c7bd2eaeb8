"""Runs every method on the GPU and compares it with the canary's numbers from the CPU."""

import io
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, redirect_stderr
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmark.recipes.plugins import find_plugins
from benchmark.steps import Means
from tests.canary import measure
from tests.gpu.common import device_of, own_leases, say, table_of

EXPECTED = Path(measure.__file__).with_name("expected.json")
DRY = ("softmax", "simcal")
PROCESSES = 4  # small operations: one process leaves the GPU idle
_places = ExitStack()
TEXT = """\
## Methods

Every method from initial weights to detections (tiny detector, three iterations a stage, all its stages), and
the classifier of each of its variants in float64, on {device}; beside the values of the CPU in
`tests/canary/expected.json`. Largest relative differences; classifiers draw the same numbers, but for the
element-wise ones of GOL and DropLoss, which are drawn where the logits are. Losses and weights are those
after three steps of AdamW, which makes of rounding (another processor does too) differences of up to half of
a loss: that every stage runs, and ends near, is what they show.
"""


def report(dry: bool) -> None:
    """A row for each method and back end."""
    device = device_of(dry)
    say(TEXT.format(device=device))
    expected = json.loads(EXPECTED.read_text())
    means = Means(devices=0 if dry else 1)
    jobs = []
    names = DRY if dry else list(find_plugins([]))
    for name in names:
        jobs.append((name, partial(_method, name, means, device.type, expected[f"method {name}"])))
    for detector in measure.other_detectors()[: 1 if dry else None]:
        known = expected.get(f"detector {detector}", {})
        jobs.append((f"softmax in {detector}", partial(_detector, detector, means, known)))
    count = max(1, min(PROCESSES, (os.cpu_count() or 1) // 2))
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=enter_place) as pool:
        rows = [(name, pool.submit(job).result) for name, job in jobs]
        good = table_of(["", "losses", "weights", "detections", "classifiers"], rows)
    if not good:
        sys.exit(1)


def enter_place() -> None:
    """Each process has its own place, until it ends, and waits for none of the others to lease the GPU."""
    os.environ |= own_leases(f"methods {os.getpid()}")
    _places.enter_context(measure.place())


def _method(name: str, means: Means, device: str, expected: dict[str, Any]) -> list[str]:
    with redirect_stderr(io.StringIO()):
        found = measure.pipeline(name, "torchvision/tiny_mask_rcnn", means)
        keys = [key for key in expected if key != "pipeline"]
        classifiers = {key: measure.classifier(key, device) for key in keys}
    apart = max(_apart(expected[key], found_values) for key, found_values in classifiers.items())
    return [*_pipeline_cells(expected["pipeline"], found), f"{apart:.0e} ({len(classifiers)})"]


def _detector(detector: str, means: Means, expected: dict[str, Any]) -> list[str]:
    with redirect_stderr(io.StringIO()):
        found = measure.pipeline("softmax", detector, means)
    return _pipeline_cells(expected, found)


def _pipeline_cells(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Differences of losses and weights, and the number of detections."""
    cells = []
    for kind in ("losses", "weights"):
        names = [name for name in found if name.endswith(kind) and name in expected]
        apart = [_apart(expected[name], found[name]) for name in names]
        cells.append(f"{max(apart):.0e}" if apart else "-")
    counts = [values.get("detections", {}).get("count", "-") for values in (expected, found)]
    return [*cells, f"{counts[1]} (CPU: {counts[0]})"]


def _apart(one: Any, two: Any) -> float:
    """The largest relative difference between numbers at the same places."""
    if isinstance(one, dict):
        return max((_apart(one[key], two[key]) for key in one.keys() & two.keys()), default=0.0)
    if isinstance(one, list):
        scale = max((abs(value) for value in one), default=0.0)
        return max((abs(a - b) for a, b in zip(one, two, strict=True)), default=0.0) / max(scale, 1e-9)
    return abs(one - two) / max(abs(one), abs(two), 1e-6)
