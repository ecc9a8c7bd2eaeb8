"""Progress of a training: lines of ``progress.jsonl`` and a progress bar."""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from benchmark.files import file_error, write_text
from benchmark.processes import average
from benchmark.progress import shows_bars

_LOGGER = logging.getLogger(__name__)

LINE_EVERY = 10  # iterations between lines of progress.jsonl
PRINT_EVERY = 15.0  # seconds between lines if the output is not a terminal

Line = dict[str, Any]
"""A line of ``progress.jsonl``."""


class TrainingLog:
    """Collects losses and writes a line of their means every ``LINE_EVERY`` iterations.

    Args:
        path: ``progress.jsonl``. Lines of iterations after ``first`` are removed: they are from a run that
            ended before its next checkpoint.
        first: iteration to begin with.
        last: iteration to end before.
        active: False on all processes but the first.
    """

    def __init__(self, path: Path, first: int, last: int, *, active: bool) -> None:
        self.path, self.last, self.active = path, last, active
        self._sums: dict[str, Tensor] = {}
        self._measured: dict[str, Tensor] = {}
        self._count = 0
        self._images = 0
        self._clock = time.monotonic()
        if active:
            lines = path.read_text().splitlines(keepends=True) if path.is_file() and first else []
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["iteration"] <= first]
            write_text(path, "".join(kept))

    def step(
        self, done: int, losses: dict[str, Tensor], rate: float, images: int, measured: dict[str, Tensor]
    ) -> Line | None:
        """Add the losses of an iteration over ``images`` images, after which ``done`` iterations are
        finished.

        A line has the means over its iterations and the processes. ``measured`` is written beside the losses
        and is not part of their sum. Returns the line if one was written, in the first process.
        """
        for sums, values in ((self._sums, losses), (self._measured, measured)):
            for name, value in values.items():
                # summed on the device: only writing a line waits for it
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        self._count += 1
        self._images += images
        if done % LINE_EVERY and done != self.last:
            return None
        means = self._means(self._sums)
        others = self._means(self._measured)
        now = time.monotonic()
        seconds, count, seen = max(now - self._clock, 1e-9), self._count, self._images
        self._sums, self._measured, self._count, self._images, self._clock = {}, {}, 0, 0, now
        if not self.active:
            return None
        line = {
            "iteration": done,
            "iterations": self.last,
            "seconds_left": round((self.last - done) * seconds / count, 1),
            "loss": sum(means.values()),
            "learning_rate": rate,
            "images_per_second": round(seen / seconds, 2),
            "losses": means,
        } | others
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise file_error("write", self.path, error) from error
        return line

    def _means(self, sums: dict[str, Tensor]) -> dict[str, float]:
        if not sums:
            return {}
        values = average(torch.stack(list(sums.values()))).tolist()
        return {name: value / self._count for name, value in zip(sums, values, strict=True)}


class ProgressBar:
    """Progress of a pass, with the losses of all its learners; prints lines if the output is not a terminal.

    Args:
        title: text before the bar.
        first: iteration to begin with.
        last: iteration to end before.
        active: False on all processes but the first.
    """

    def __init__(self, title: str, first: int, last: int, *, active: bool) -> None:
        self._title, self._last = title, last
        self._printed = time.monotonic()
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not (active and shows_bars(console)),
        )
        self._task = self._bar.add_task(title, total=last, completed=first, text="")

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, done: int, reports: Sequence[Line | None]) -> None:
        """Show the lines of the logs after ``done`` iterations."""
        lines = [line for line in reports if line is not None]
        if not lines:
            return
        losses = ", ".join(f"{line['loss']:.3f}" for line in lines)
        rates = ", ".join(dict.fromkeys(f"{line['learning_rate']:.2e}" for line in lines))
        text = f"loss {losses}  rate {rates}  {lines[0]['images_per_second']:.1f} images/s"
        self._bar.update(self._task, completed=done, text=text)
        now = time.monotonic()
        if self._bar.disable and (now - self._printed > PRINT_EVERY or done == self._last):
            left = max(line["seconds_left"] for line in lines)
            _LOGGER.info("%s %s/%s  %s  ETA %.0f s", self._title, done, self._last, text, left)
            self._printed = now
