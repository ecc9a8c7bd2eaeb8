"""Images per second and memory of training, beside torchvision's reference loop and the frameworks' own."""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmark.recipes.models import Run
from benchmark.steps import made_dataset
from tests.gpu.common import device_of, forget_memory, largest_memory, say, table_of
from tests.gpu.peers import PEERS
from tests.performance import training

TEXT = """\
## Training

Images per second, and the most memory that tensors take, of whole trainings of {preset}: {batch} images of
{edge} pixels a step, {categories} categories with a dozen objects an image. Peers train their own models on
the same images from the same loader. AdamW, random weights; means over {measured} iterations after {warm_up}.
"""


def report(dry: bool) -> None:
    """A row for each loop and precision."""
    device = device_of(dry)
    cases = training.CASES["dry" if dry else "cuda"]
    training.WARM_UP, training.MEASURED = (1, 2) if dry else (5, 12)
    shutil.rmtree("ours", ignore_errors=True)  # a training that was killed would go on
    first = cases[0]
    own = training.run_of(first)
    made_dataset(own.dataset)
    sizes = {"categories": own.dataset.categories, "measured": training.MEASURED, "warm_up": training.WARM_UP}
    say(TEXT.format(**first | sizes))
    rows: list[tuple[str, Callable[[], list[str]]]] = []
    for case in [dict(case) for case in cases]:
        precision, run = case.get("precision", "fp32"), training.run_of(case)
        rows.append((f"benchmark, {precision}", partial(_cells, partial(training.ours, run, case), device)))
        reference = partial(training.theirs, run, case, device)
        rows.append((f"torchvision's reference, {precision}", partial(_cells, reference, device)))
        for package, (name, make) in PEERS.items():
            if importlib.util.find_spec(package) is not None:
                peer = partial(_peer, make, run, case, device)
                rows.append((f"{name}, {precision}", partial(_cells, peer, device)))
    if not table_of(["", "images/s", "memory"], rows):
        sys.exit(1)


def _cells(measured: Callable[[], float], device: torch.device) -> list[str]:
    forget_memory(device)
    rate = measured()
    return [f"{rate:.1f}", largest_memory(device)]


def _peer(make: Callable[..., Any], run: Run, case: dict[str, Any], device: torch.device) -> float:
    step = make(run.detector, run.dataset.categories, device, bf16=case.get("precision") == "bf16-mixed")
    # their models move images to the device themselves
    loaded = training.batches(run, case, torch.device("cpu"))
    return training.rate_of(step, loaded, case, device)
