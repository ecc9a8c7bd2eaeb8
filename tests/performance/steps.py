"""Time and tensor memory of a training step on the CPU or a GPU, depending on the number of categories."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile

from benchmark.statistics import ClassStatistics

from .measuring import ROOT

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def clock(device: str) -> Callable[[], float]:
    """CPU time of this process; for a GPU, wall time after all its work is done."""
    if device == "cpu":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised


@contextmanager
def between_steps(first: int, last: int, device: str) -> Iterator[Callable[[], float]]:
    """Yields a function that returns the seconds (as of ``clock``) from one step of an optimiser to another.

    Steps of all optimisers are counted from 1. The function asserts that ``last`` was the last of all.
    """
    read, times, steps = clock(device), dict[int, float](), 0

    def stepped(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps in (first, last):
            times[steps] = read()

    def seconds() -> float:
        assert steps == last, (steps, last)
        return times[last] - times[first]

    handle = register_optimizer_step_post_hook(stepped)
    try:
        yield seconds
    finally:
        handle.remove()


def peak_tensor_megabytes(step: Callable[[], object], device: str) -> float:
    """Most memory, in 10^6 bytes, that tensors made by one ``step`` take at once.

    Resident memory would not tell: the allocator of the C library keeps what it once had.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    return max(accumulate(change for _, change in sorted(changes))) / 1e6


def lvis_statistics(categories: int) -> ClassStatistics:
    """Counts of the first categories of LVIS v0.5 (all: 1230) in its 56740 annotated training images."""
    lvis = ClassStatistics.read(ROOT / "tests" / "data" / "lvis_v0.5_categories.csv")
    return ClassStatistics(
        lvis.category_ids[:categories],
        lvis.names[:categories],
        lvis.frequencies[:categories],
        lvis.image_counts[:categories],
        lvis.instance_counts[:categories],
        num_annotated_images=56740,
    )
