"""Messages on stderr: the command line's view of what the modules log.

A module logs with ``logging.getLogger(__name__)``: progress of the work as information, what deserves a look
as a warning, details for somebody who searches a fault as debugging. Results are printed on stdout instead.
"""

import logging
import sys

OURS = ("benchmark", "methods")


class _Messages(logging.Handler):
    """Writes to the stderr of the moment, which a progress bar may have put a proxy in the place of."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


class _Format(logging.Formatter):
    """The message alone, and its level in front where that is more than information."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno == logging.INFO:
            return text
        name = record.name if record.levelno < logging.INFO else record.levelname.lower()
        return f"{name}: {text}"


def show_messages(verbosity: int = 0) -> None:
    """Write messages to stderr from now on, in the place of an earlier call's.

    Args:
        verbosity: 0 for information and warnings, -1 for warnings alone, 1 for details and the information
            of other packages, too.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Messages)]:
        root.removeHandler(handler)
    handler = _Messages()
    handler.setFormatter(_Format())
    root.addHandler(handler)
    root.setLevel(logging.INFO if verbosity > 0 else logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO - 10 * verbosity)


def verbosity_options() -> list[str]:
    """The options with which a command shows the messages that this process shows."""
    level = logging.getLogger(OURS[0]).getEffectiveLevel()
    return ["--verbose"] if level < logging.INFO else ["--quiet"] if level > logging.INFO else []
