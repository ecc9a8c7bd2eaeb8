"""The image files of a subset, each linked from a folder that has it or downloaded from its address.

Several files are downloaded in parallel. A file gets its name only if it decodes and has the size in its
record, so files of an interrupted call are complete, and the next call continues with the missing ones.
"""

import queue
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import requests
import urllib3

from benchmark.annotations import AnnotationError, Image, check_images, resolve_image
from benchmark.datasets.download import reason_of
from benchmark.files import exclusive, file_error

CONNECTIONS = 8
ATTEMPTS = 3  # for each image
PAUSE = 0.5  # seconds before the second attempt, doubled for the third
TIMEOUT = (10, 30)  # seconds to connect, and between two chunks
DEADLINE = 120.0  # seconds for one attempt, even if bytes arrive slowly
PIECE = 1 << 16
LARGEST = 50 * 2**20  # bytes; photographs of COCO have a hundredth of it
HOPELESS = 3 * CONNECTIONS  # failures in a row after which the remaining files are skipped

STAGING, LOCK = ".fetching", ".lock"

How = Literal["there", "linked", "fetched"]


@dataclass(frozen=True)
class Gathered:
    """Numbers of images that existed, were linked, were downloaded and are missing, and the first reason."""

    counts: Counter[How]
    missing: int
    reason: str | None

    def __str__(self) -> str:
        done = ", ".join(f"{self.counts[how]:,} {how}" for how in sorted(self.counts))
        total = self.missing + self.counts.total()
        return f"{total:,} images ({done})" if not self.missing else f"{self.missing:,} of {total:,} missing"


def gather_images(
    images: Sequence[Image],
    folder: Path,
    sources: Sequence[Path] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Gathered:
    """Get the files of ``images`` into ``folder``, from the folders ``sources`` or from the web.

    Intact files are kept; damaged ones are replaced. A missing image is not an error. ``progress`` is called
    with the number of processed images and their total. Raises ``BusyError`` if another process is doing the
    same, ``AnnotationError`` for a record whose name leads out of the folder, ``FileError`` for errors of the
    system.
    """
    wanted = [_with_one_name(image) for image in images]
    with exclusive(folder / LOCK, folder):
        shutil.rmtree(folder / STAGING, ignore_errors=True)
        gathering = _Gathering(wanted, folder, sources)
        counts: Counter[How] = Counter()
        reasons: list[str] = []
        try:
            for number, result in enumerate(gathering.results(), start=1):
                if isinstance(result, _Failure):
                    reasons.append(str(result))
                else:
                    counts[result] += 1
                if progress is not None:
                    progress(number, len(wanted))
        except OSError as error:
            raise file_error("write", folder, error) from error
        finally:
            shutil.rmtree(folder / STAGING, ignore_errors=True)
    return Gathered(counts, len(wanted) - counts.total(), reasons[0] if reasons else None)


def _with_one_name(image: Image) -> Image:
    """The record with a single name: the last two parts of its address, else its ``file_name``."""
    named = image
    if image.coco_url is not None:
        named = Image(image.id, image.width, image.height, coco_url=image.coco_url)
    _ = named.relative_path  # refuses names that lead out of the folder
    return named


class _Failure(Exception):
    """An image cannot be linked or downloaded."""


class _Gathering:
    """Threads that each process one image after another. They end with the process, so an interruption does
    not wait for a silent server."""

    def __init__(self, images: Sequence[Image], folder: Path, sources: Sequence[Path]) -> None:
        self.folder, self.sources = folder, sources
        self.todo: queue.SimpleQueue[Image] = queue.SimpleQueue()
        for image in images:
            self.todo.put(image)
        self.done: queue.SimpleQueue[How | BaseException] = queue.SimpleQueue()
        self.number = len(images)
        self.failures = 0  # in a row
        self.verifying = threading.Lock()  # Pillow's warnings are silenced for all threads together

    def results(self) -> Iterator[How | _Failure]:
        """The result for every image, in order of completion; raises unexpected errors of threads."""
        for _ in range(min(CONNECTIONS, self.number)):
            threading.Thread(target=self._work, daemon=True).start()
        for _ in range(self.number):
            result = self.done.get()
            if isinstance(result, BaseException) and not isinstance(result, _Failure):
                self.failures = HOPELESS  # no further images are started
                raise result
            yield result

    def _work(self) -> None:
        with requests.Session() as session:
            while True:
                try:
                    image = self.todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    self.done.put(self._get(image, session))
                except BaseException as error:
                    self.done.put(error)

    def _get(self, image: Image, session: requests.Session) -> How:
        target = self.folder / image.relative_path
        if target.is_file() and self._defect(image, self.folder) is None:
            return "there"
        target.unlink(missing_ok=True)  # damaged, or a link to nothing
        target.parent.mkdir(parents=True, exist_ok=True)
        if self._link(image, target):
            return "linked"
        if self.failures >= HOPELESS:
            raise _Failure("not tried after many failures in a row")
        try:
            self._fetch(image, session).replace(target)
        except _Failure:
            self.failures += 1
            raise
        self.failures = 0
        return "fetched"

    def _link(self, image: Image, target: Path) -> bool:
        """Link an intact file from one of the sources."""
        for source in self.sources:
            try:
                found = resolve_image(image, source)
            except AnnotationError:
                continue
            if self._defect(image, source) is None:
                target.symlink_to(found.resolve())
                return True
        return False

    def _defect(self, image: Image, folder: Path) -> str | None:
        """The defect of an image's file in a folder, if any."""
        with self.verifying:
            problems = check_images([image], folder)
        return next((f"{item.what}: {item.found}" for item in problems if item.severity == "error"), None)

    def _fetch(self, image: Image, session: requests.Session) -> Path:
        """Download an intact file into the staging folder."""
        url = image.coco_url
        if url is None:
            raise _Failure(
                f"image {image.id} has no coco_url, and {image.file_name} is in none of the given folders"
            )
        path = self.folder / STAGING / image.relative_path
        path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(ATTEMPTS):
            time.sleep(PAUSE * 2 ** (attempt - 1) if attempt else 0)
            try:
                path.write_bytes(_download(url, session))
                reason = self._defect(image, self.folder / STAGING)
                if reason is None:
                    return path
            except requests.RequestException as error:
                reason = reason_of(error)
                if error.response is not None and error.response.status_code in range(400, 500):
                    break
        raise _Failure(f"{url}: {reason}")


def _download(url: str, session: requests.Session) -> bytes:
    """The body of a response; errors of ``requests`` if it is incomplete or too slow."""
    begin, content = time.monotonic(), bytearray()
    with session.get(url, headers={"Accept-Encoding": "identity"}, stream=True, timeout=TIMEOUT) as response:
        response.raise_for_status()
        try:
            while piece := response.raw.read1(PIECE):  # available bytes, so that slow transfers are noticed
                content += piece
                if len(content) > LARGEST:
                    raise requests.ConnectionError(f"more than {LARGEST} bytes")
                if time.monotonic() - begin > DEADLINE:
                    raise requests.Timeout(f"not complete after {DEADLINE:.0f} s")
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error) from None
    return bytes(content)
