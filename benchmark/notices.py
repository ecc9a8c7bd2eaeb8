"""What a setting means on the data at hand: warnings that reach the person and the record of a step."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class DataWarning(UserWarning):
    """A setting that makes a method another one on these data, such as a threshold that no category passes.

    A classifier warns from its constructor: ``warnings.warn(DataWarning(text))``. The text is one sentence:
    the setting, what it does here, the counts that were seen, what to do. A classifier that cannot do
    anything on such data raises a ``BenchmarkError`` instead.
    """


@contextmanager
def data_warnings(show: Callable[[str], None] | None = None) -> Iterator[list[str]]:
    """Collect the texts of all ``DataWarning``s within, each once, and ``show`` each as it comes."""
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
