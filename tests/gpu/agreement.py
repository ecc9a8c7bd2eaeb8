"""Compares CPU and GPU in each precision, with the same detector, images and draws."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmark.images import Target
from tests.agreement.comparison import (
    Case,
    Results,
    build,
    cases,
    difference,
    examples,
    installed,
    make_lively,
    results,
)
from tests.gpu.common import device_of, say, table_of

EDGES = (96, 128)
TEXT = """\
## CPU and GPU

The narrow detectors of `make agreement` with the same weights, images and draws, on the CPU in float32 and on
{device} in float32 and TF32; and with bfloat16 autocast on the latter. Losses and gradients relative to the
largest entry, RoIs and boxes in pixels. `inf`: a decision was tipped, so that there are others; the numbers
before it still say whether the arithmetic agrees.
"""
COLUMNS = ["", "losses", "gradients", "RoIs px", "boxes px", "scores", "mask pixels", "detections"]


def report(dry: bool) -> None:
    """A row for each detector, back end and precision."""
    device = device_of(dry)
    say(TEXT.format(device=device))
    rows = []
    for case in cases("tiny")[: 1 if dry else None]:
        for backend in installed():
            if case.settings.semantic_branch and backend != "mmdet":
                continue  # no other has it
            for precision in ("fp32", "tf32", "bf16"):
                name = f"{case.title}, {backend}, {precision}"
                rows.append((name, partial(_cells, case, backend, precision, device)))
    if not table_of(COLUMNS, rows):
        sys.exit(1)


_reference: dict[tuple[Any, ...], Results] = {}


def _cells(case: Case, backend: str, precision: str, device: torch.device) -> list[str]:
    known = (case.rows, backend)
    if known not in _reference:
        _reference.clear()
        _reference[known] = _results(case, backend, "fp32", torch.device("cpu"))
    found = difference(_reference[known], _results(case, backend, precision, device))
    values = (found.losses, found.gradients, found.rois, found.boxes, found.scores, found.mask_pixels)
    return [*(f"{value:.0e}" for value in values), str(found.detections)]


def _results(case: Case, backend: str, precision: str, device: torch.device) -> Results:
    torch.manual_seed(0)
    detector = build(backend, case.settings)
    make_lively(detector)
    detector.to(device)
    images, targets = examples(EDGES, case.settings)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    with torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
        found = results(detector, *_moved(images, targets, device), None)
    gradients = {name: value.float().cpu() for name, value in found.gradients.items()}
    return replace(found, gradients=gradients, rois=[value.cpu() for value in found.rois])


def _moved(
    images: list[Tensor], targets: list[Target], device: torch.device
) -> tuple[list[Tensor], list[Target]]:
    return [image.to(device) for image in images], [target.to(device) for target in targets]
