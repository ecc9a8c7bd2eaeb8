"""Log messages on stderr, as the command line shows them.

A module logs with ``logging.getLogger(__name__)``: progress at level INFO, possible problems at WARNING,
details for debugging at DEBUG. Results are not logged but printed to stdout.
"""

import logging
import sys

OURS = ("benchmark", "methods")


class _Messages(logging.Handler):
    """Writes to the current ``sys.stderr``, which a progress bar may have replaced by a proxy."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


class _Format(logging.Formatter):
    """The message, preceded by its level unless that is INFO (at DEBUG, by the name of the logger)."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno == logging.INFO:
            return text
        name = record.name if record.levelno < logging.INFO else record.levelname.lower()
        return f"{name}: {text}"


def show_messages(verbosity: int = 0) -> None:
    """Write log messages to stderr from now on; replaces the settings of an earlier call.

    Args:
        verbosity: 0 shows INFO and above, -1 only warnings and errors, 1 also DEBUG and the INFO messages of
            other packages.
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
    """The command-line options that give a command the verbosity of this process."""
    level = logging.getLogger(OURS[0]).getEffectiveLevel()
    return ["--verbose"] if level < logging.INFO else ["--quiet"] if level > logging.INFO else []
