"""Checkpoints of an unfinished training."""

import logging
import re
from pathlib import Path
from typing import Any

from benchmark.detectors import checkpoints
from benchmark.files import sha256_file, write_text

_LOGGER = logging.getLogger(__name__)

KEPT = 2  # the older one is used if the newer one is damaged


class ResumeFolder:
    """Checkpoints of one unfinished training, with a checksum beside each.

    Args:
        folder: a folder whose key covers everything that the training depends on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _steps(self) -> list[tuple[int, Path]]:
        found = [(re.fullmatch(r"iteration_(\d+)\.pt", path.name), path) for path in self.folder.glob("*.pt")]
        return sorted((int(match[1]), path) for match, path in found if match)

    def save(self, iteration: int, content: dict[str, Any]) -> None:
        """Write a checkpoint and remove all but the newest ones."""
        path = self.folder / f"iteration_{iteration:08d}.pt"
        write_text(path.with_suffix(".sha256"), checkpoints.save(path, content))
        for _, old in self._steps()[:-KEPT]:
            old.unlink(missing_ok=True)
            old.with_suffix(".sha256").unlink(missing_ok=True)

    def newest(self) -> Path | None:
        """The newest intact checkpoint. Damaged ones are removed, so that they never count among those that
        are kept."""
        for _, path in reversed(self._steps()):
            checksum = path.with_suffix(".sha256")
            if checksum.is_file() and checksum.read_text() == sha256_file(path):
                return path
            found = "differs from its checksum" if checksum.is_file() else "was cut off before its checksum"
            _LOGGER.warning("%s %s; the one before it is used", path, found)
            path.unlink()
            checksum.unlink(missing_ok=True)
        return None

    def clear(self) -> None:
        """Remove everything, and the folder if nothing else is in it."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if re.match(r"\.?iteration_\d+\.", path.name):
                path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()
