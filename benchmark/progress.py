"""Progress of long operations, with rate and time left."""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

EVERY = 10.0
"""Seconds between two lines if stderr is not a terminal."""

Advance = Callable[[int, int], None]
"""A function of the number of items done and the total number."""

T = TypeVar("T")

_LOGGER = logging.getLogger(__name__)


def shows_bars(console: "Console") -> bool:
    """Whether progress is a bar: on a terminal, unless the person asked for quiet."""
    return console.is_terminal and _LOGGER.isEnabledFor(logging.INFO)


@contextmanager
def shown_progress(what: str) -> Iterator[Advance]:
    """Yield a function that takes how many of how many are done, and shows it on stderr.

    A bar on a terminal; a line every ``EVERY`` seconds elsewhere, so that logs stay short.
    """
    # takes a tenth of a second, and most of what imports this module shows nothing
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not shows_bars(console):
        yield _lines(what)
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
            seconds = time.monotonic() - begin
            bar.update(task, completed=done, total=total, rate=_rate(done, seconds))

        yield advance


def tracked(items: Collection[T], what: str, *, each: int = 1, shown: bool = True) -> Iterator[T]:
    """Iterate over ``items`` and show the progress as ``shown_progress`` does.

    Args:
        items: the items.
        what: name of what is counted.
        each: number that one item counts for.
        shown: False if another process shows the progress.
    """
    if not shown:
        yield from items
        return
    with shown_progress(what) as advance:
        for number, item in enumerate(items, start=1):
            yield item
            advance(number * each, len(items) * each)


def _lines(what: str) -> Advance:
    begin = last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY:
            left = (total - done) * (now - begin) / done
            text = "%s of %s %s, %s, %.0f min left"
            _LOGGER.info(text, f"{done:,}", f"{total:,}", what, _rate(done, now - begin), left / 60)
            last = now

    return advance


def _rate(done: int, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
