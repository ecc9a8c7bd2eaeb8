"""Warnings about settings that do not suit the data, for the user and for the record of a step."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class DataWarning(UserWarning):
    """A setting that changes the nature of a method on these data, such as a threshold that no category
    exceeds.

    A classifier warns from its constructor: ``warnings.warn(DataWarning(text))``. The text is one sentence:
    the setting, its effect, the counts in the data, and what to do. A classifier that cannot work on such
    data raises a ``BenchmarkError`` instead.
    """


@contextmanager
def data_warnings(show: Callable[[str], None] | None = None) -> Iterator[list[str]]:
    """Collect the texts of all ``DataWarning``s inside the block, each once, and ``show`` each
    immediately."""
    found: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        others = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
            if not issubclass(category, DataWarning):
                others(message, category, *place, **options)
            elif str(message) not in found:
                found.append(str(message))
                if show is not None:
                    show(str(message))

        warnings.showwarning = note
        yield found
