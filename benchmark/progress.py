"""How far a long step over many files is, with its rate and the time left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 10.0
"""Seconds between the lines where there is no terminal."""


@contextmanager
def shown_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that takes how many of how many are done, and shows it on stderr.

    A bar on a terminal; a line every ``EVERY`` seconds elsewhere, so that logs stay short.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what, console)
        return
    columns = (
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=None, rate="")
        begin = time.monotonic()

        def advance(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - begin, 1e-9)
            bar.update(task, completed=done, total=total, rate=f"{rate:,.0f}/s")

        yield advance


def _lines(what: str, console: Console) -> Callable[[int, int], None]:
    begin = last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY:
            rate = done / (now - begin)
            left = (total - done) / rate
            console.print(
                f"{done:,} of {total:,} {what}, {rate:,.0f} a second, {left / 60:.0f} min left",
                highlight=False,
            )
            last = now

    return advance
