"""Shared by the topics: the device, and tables whose rows are printed as soon as they are known."""

import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmark.devices import VISIBLE


def device_of(dry: bool) -> torch.device:
    """The GPU, or the CPU in a dry run."""
    return torch.device("cpu" if dry else "cuda")


def own_leases(name: str) -> dict[str, str]:
    """Environment variables of processes that share the GPU with those of other names.

    ``lease_devices`` gives a GPU to one process at a time, among those of the same job of a scheduler.
    """
    return {"PBS_JOBID": name, VISIBLE: os.environ.get(VISIBLE, "0")}


def say(text: str) -> None:
    """Print a paragraph immediately."""
    print(f"{text}\n", flush=True)


def table_of(columns: Sequence[str], rows: Sequence[tuple[str, Callable[[], Sequence[Any]]]]) -> bool:
    """Print a Markdown table row by row; returns whether all rows could be made.

    Args:
        columns: headings; the first is of the rows' names.
        rows: names, and what gives the other cells. An error of one is its row, and the others go on.
    """
    print(f"| {' | '.join(columns)} |")
    print(f"| --- |{' --: |' * (len(columns) - 1)}", flush=True)
    good = True
    for name, cells in rows:
        try:
            made = [str(cell) for cell in cells()]
        except Exception as error:
            traceback.print_exc()
            good = False
            made = [f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"]
        made += [""] * (len(columns) - 1 - len(made))
        print(f"| {name} | {' | '.join(cell.replace('|', '/') for cell in made)} |", flush=True)
    print(flush=True)
    return good


def largest_memory(device: torch.device) -> str:
    """Peak memory of tensors on the GPU since ``forget_memory``, in GB."""
    if device.type != "cuda":
        return "-"
    return f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB"


def forget_memory(device: torch.device) -> None:
    """Reset ``largest_memory``."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def finish(device: torch.device) -> None:
    """Wait until the GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()
