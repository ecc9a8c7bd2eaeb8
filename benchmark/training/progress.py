"""What a training tells while it runs: lines of ``progress.jsonl`` and a progress bar."""

import json
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from benchmark.files import file_error, write_text
from benchmark.processes import average

LINE_EVERY = 10  # iterations between lines of progress.jsonl
PRINT_EVERY = 15.0  # seconds between lines where the output is no terminal


class TrainingLog:
    """Collects losses and reports them.

    Args:
        path: ``progress.jsonl``; lines of later iterations than ``first`` are from a run that was cut off
            before its next checkpoint, and are dropped.
        title: in front of the bar.
        first: iteration to begin with.
        last: iteration to end before.
        active: False on all processes but the first.
    """

    def __init__(self, path: Path, title: str, first: int, last: int, *, active: bool) -> None:
        self.path, self.title, self.last, self.active = path, title, last, active
        self._sums: dict[str, Tensor] = {}
        self._measured: dict[str, Tensor] = {}
        self._count = 0
        self._images = 0
        self._clock = self._printed = time.monotonic()
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            disable=not (active and self._console.is_terminal),
        )
        self._task = self._bar.add_task(title, total=last, completed=first, text="")
        if active:
            lines = path.read_text().splitlines(keepends=True) if path.is_file() and first else []
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["iteration"] <= first]
            write_text(path, "".join(kept))

    def __enter__(self) -> "TrainingLog":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(
        self,
        iteration: int,
        losses: dict[str, Tensor],
        rate: float,
        images: int,
        measured: dict[str, Tensor],
    ) -> None:
        """Take the losses of a finished 0-based iteration over ``images`` images.

        A line has the means over its iterations and the processes. ``measured`` is written beside the losses
        and does not count into their sum.
        """
        for sums, values in ((self._sums, losses), (self._measured, measured)):
            for name, value in values.items():
                # summed on the device: only a line of the log waits for it
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        self._count += 1
        self._images += images
        done = iteration + 1
        if done % LINE_EVERY and done != self.last:
            return
        means = self._means(self._sums)
        others = self._means(self._measured)
        now = time.monotonic()
        seconds, count, seen = max(now - self._clock, 1e-9), self._count, self._images
        self._sums, self._measured, self._count, self._images, self._clock = {}, {}, 0, 0, now
        if not self.active:
            return
        total, speed = sum(means.values()), seen / seconds
        left = (self.last - done) * seconds / count
        line = {
            "iteration": done,
            "iterations": self.last,
            "seconds_left": round(left, 1),
            "loss": total,
            "learning_rate": rate,
            "images_per_second": round(speed, 2),
            "losses": means,
        } | others
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise file_error("write", self.path, error) from error
        text = f"loss {total:.3f}  rate {rate:.2e}  {speed:.1f} images/s"
        self._bar.update(self._task, completed=done, text=text)
        if self._bar.disable and (now - self._printed > PRINT_EVERY or done == self.last):
            print(f"{self.title} {done}/{self.last}  {text}  ETA {left:.0f} s", file=sys.stderr, flush=True)
            self._printed = now

    def _means(self, sums: dict[str, Tensor]) -> dict[str, float]:
        if not sums:
            return {}
        values = average(torch.stack(list(sums.values()))).tolist()
        return {name: value / self._count for name, value in zip(sums, values, strict=True)}
