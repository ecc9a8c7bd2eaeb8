"""Images per second and memory of training, beside torchvision's reference loop and the frameworks' own."""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial

import torch

from tests.gpu.common import device_of, forget_memory, largest_memory, say, table_of
from tests.performance import training
from tests.performance.peers import PEERS

TEXT = """\
## Training

Images per second, and the most memory that tensors take, of whole trainings of {preset}: {batch} images of
{edge} pixels a step, {categories} categories with a dozen objects an image. Peers train their own models on
the same images, each with its own loading and loop. AdamW, random weights; means over {measured} iterations
after {warm_up}. In the row "released" the benchmark trains as on the eight GPUs of the releases: batches of
{batch} in passes of {per_worker} images, each with its own losses and draws.
"""
PER_WORKER = 2


def report(dry: bool) -> None:
    """A row for each loop and precision."""
    device = device_of(dry)
    cases = training.CASES["dry" if dry else "cuda"]
    first = cases[0]
    training.made(first)
    say(TEXT.format(**vars(first), per_worker=PER_WORKER))
    rows: list[tuple[str, Callable[[], list[str]]]] = []
    names = {training.OURS: training.OURS} | {package: name for package, (name, _) in PEERS.items()}
    for package, name in names.items():
        for case in cases:
            rows.append((f"{name}, {case.precision}", partial(_cells, package, case, device)))
    released = replace(cases[-1], images_per_worker=min(PER_WORKER, first.batch))
    name = f"{training.OURS}, {released.precision}, released"
    rows.insert(len(cases), (name, partial(_cells, training.OURS, released, device)))
    if not table_of(["", "images/s", "memory"], rows):
        sys.exit(1)


def _cells(name: str, case: training.Case, device: torch.device) -> list[str]:
    forget_memory(device)
    with redirect_stdout(sys.stderr):  # MMEngine's log
        seconds, _ = training.seconds_of(name, case, "all", device)
    return [f"{case.batch / seconds:.1f}", largest_memory(device)]
