"""Detections on disk: Parquet columns, and the LVIS results format (JSON) that other tools read.

One Parquet row is one detection: ``image_id`` and ``category_id`` int64, ``score`` float32, ``x y width
height`` float32 in pixels of the original image; with masks also ``mask_height`` and ``mask_width`` int32
and ``mask_counts``, the bytes of COCO's compressed run-length encoding. The rows of an image stand
together, in the order in which the model gave them. The file's metadata hold a hash of the categories, the
description of the run and the IoU types that can be evaluated.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Meta

from benchmark.annotations import Vocabulary, check_same_vocabulary, vocabulary_hash
from benchmark.annotations.reading import Id
from benchmark.errors import BenchmarkError
from benchmark.files import atomic_path, file_error, read_bytes

METADATA = b"longtail"
ROW_GROUP = 65536
_BOX = ("x", "y", "width", "height")
_BOX_FIELDS = [
    pa.field("image_id", pa.int64(), nullable=False),
    pa.field("category_id", pa.int64(), nullable=False),
    pa.field("score", pa.float32(), nullable=False),
    *(pa.field(name, pa.float32(), nullable=False) for name in _BOX),
]
_MASK_FIELDS = [
    pa.field("mask_height", pa.int32(), nullable=False),
    pa.field("mask_width", pa.int32(), nullable=False),
    pa.field("mask_counts", pa.binary(), nullable=False),
]


class DetectionError(BenchmarkError):
    """Detections that cannot be written, read or matched with the ground truth."""


@dataclass(frozen=True)
class DetectionTable:
    """N detections as columns, in file order.

    ``image_ids``, ``category_ids`` int64 (N,); ``scores`` float64 (N,); ``boxes`` float64 (N, 4) as x, y,
    width, height in pixels, or None; ``mask_sizes`` int64 (N, 2) as height, width, and ``mask_counts`` (N
    byte strings in one Arrow column), or None. float64 holds the float32 values of Parquet and the decimals
    of JSON without loss. ``vocabulary`` is the hash of the categories, None where the file has none.
    """

    path: Path
    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray | None
    mask_sizes: np.ndarray | None
    mask_counts: pa.ChunkedArray | None
    vocabulary: str | None
    description: dict[str, Any]
    row_word: str

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def iou_types(self) -> list[str]:
        """What can be evaluated: ``bbox``, ``segm`` or both."""
        present = {"bbox": self.boxes, "segm": self.mask_counts}
        return [name for name, column in present.items() if column is not None]

    def check_values(self) -> None:
        """Raise ``DetectionError`` for scores or boxes that are not finite, and boxes of a negative size."""
        self._refuse(~np.isfinite(self.scores), self.scores, "score", "a finite number")
        if self.boxes is not None:
            self._refuse(~np.isfinite(self.boxes).all(axis=1), self.boxes, "box", "four finite numbers")
            negative = np.any(self.boxes[:, 2:] < 0, axis=1)
            self._refuse(negative, self.boxes, "box", "x, y, width >= 0, height >= 0")

    def check_ids(
        self, vocabulary: Mapping[int, str], sizes: Mapping[int, tuple[int, int]], truth: Path
    ) -> None:
        """Raise ``DetectionError`` where the detections do not belong to the ground truth file ``truth``.

        ``vocabulary`` is category id to name, ``sizes`` image id to (height, width) in pixels.
        """
        if self.vocabulary is not None:
            check_same_vocabulary(
                Vocabulary(f"detections {self.path}", self.vocabulary),
                Vocabulary.of(f"ground truth {truth}", vocabulary.items()),
                DetectionError,
                remedy="evaluate against the annotation file of the dataset that the model was trained on",
            )
        images = np.fromiter(sizes, np.int64, len(sizes))
        categories = np.fromiter(vocabulary, np.int64, len(vocabulary))
        self._refuse(~np.isin(self.image_ids, images), self.image_ids, "image_id", f"an image of {truth}")
        self._refuse(
            ~np.isin(self.category_ids, categories),
            self.category_ids,
            "category_id",
            f"a category of {truth}",
        )
        if self.mask_sizes is not None and len(self):
            order = np.argsort(images)
            shapes = np.array(list(sizes.values()), np.int64).reshape(-1, 2)[order]
            expected = shapes[np.searchsorted(images[order], self.image_ids)]
            wrong = np.any(self.mask_sizes != expected, axis=1)
            row = int(np.argmax(wrong))
            self._refuse(
                wrong,
                self.mask_sizes,
                "mask size",
                f"{expected[row].tolist()}, height and width of the image",
            )

    def _refuse(self, wrong: np.ndarray, values: np.ndarray, field: str, expected: str) -> None:
        if not wrong.any():
            return
        row = int(np.argmax(wrong))
        raise DetectionError(
            f"bad {field} in {int(wrong.sum())} of {len(self)} detections",
            where=f"{self.path}, {self.row_word} {row} (counted from 0), image {self.image_ids[row]}",
            found=values[row].tolist(),
            expected=expected,
            remedy="the file is of another dataset or of a broken model; predict again",
        )


class DetectionWriter:
    """Writes detections image by image; the file appears when the ``with`` block ends without an error.

    ``vocabulary`` is category id to name of the ground truth, ``description`` what made the detections (JSON
    values), ``masks`` whether every detection has one. Memory stays at one row group.
    """

    def __init__(
        self, path: Path, vocabulary: Mapping[int, str], description: Mapping[str, Any], masks: bool
    ) -> None:
        self.path = Path(path)
        self.masks = masks
        self.rows = 0
        self._categories = np.fromiter(vocabulary, np.int64, len(vocabulary))
        content = {
            "vocabulary": vocabulary_hash(vocabulary.items()),
            "iou_types": ["bbox", "segm"] if masks else ["bbox"],
            "description": dict(description),
        }
        fields = _BOX_FIELDS + (_MASK_FIELDS if masks else [])
        self._schema = pa.schema(fields, metadata={METADATA: json.dumps(content, sort_keys=True).encode()})
        self._buffer: list[pa.RecordBatch] = []
        self._buffered = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        temporary = self._stack.enter_context(atomic_path(self.path))
        self._file = self._stack.enter_context(
            pq.ParquetWriter(temporary, self._schema, compression="zstd", write_page_checksum=True)
        )
        return self

    def add(
        self,
        image_id: int,
        category_ids: Any,
        scores: Any,
        boxes_xywh: Any,
        rles: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add the K detections of one image, K >= 0.

        ``category_ids`` (K,) integers; ``scores`` (K,) and ``boxes_xywh`` (K, 4) floats, anything that NumPy
        can read; ``rles`` K times ``{"size": [height, width], "counts": bytes or str}``. Raises
        ``DetectionError`` for values that no evaluation could use.
        """
        categories = np.asarray(category_ids).reshape(-1).astype(np.int64)
        table = DetectionTable(
            path=self.path,
            image_ids=np.full(len(categories), image_id, np.int64),
            category_ids=categories,
            scores=np.asarray(scores, np.float32).reshape(-1),
            boxes=np.asarray(boxes_xywh, np.float32).reshape(-1, 4),
            mask_sizes=None,
            mask_counts=None,
            vocabulary=None,
            description={},
            row_word="detection",
        )
        assert table.boxes is not None
        lengths = {len(categories), len(table.scores), len(table.boxes)} | (
            {len(rles or ())} if self.masks else set()
        )
        if len(lengths) != 1:
            raise DetectionError(
                "columns of different lengths", where=f"image {image_id}", found=sorted(lengths)
            )
        table.check_values()
        table._refuse(
            ~np.isin(categories, self._categories), categories, "category_id", "a category of the dataset"
        )
        columns = [table.image_ids, categories, table.scores, *table.boxes.T]
        if self.masks:
            sizes = np.array([rle["size"] for rle in rles or ()], np.int32).reshape(-1, 2)
            counts = [rle["counts"] for rle in rles or ()]
            columns += [sizes[:, 0], sizes[:, 1]]
            columns.append([item.encode("ascii") if isinstance(item, str) else item for item in counts])
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._buffer.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._buffered += len(categories)
        self.rows += len(categories)
        if self._buffered >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._buffered:
            table = pa.Table.from_batches(self._buffer).combine_chunks()
            self._file.write_table(table, row_group_size=max(ROW_GROUP, self._buffered))
        self._buffer, self._buffered = [], 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack as stack:
            if error is not None:
                stack.__exit__(kind, error, trace)
                return
            self._flush()


class _Metadata(msgspec.Struct):
    vocabulary: str
    iou_types: list[Literal["bbox", "segm"]]
    description: dict[str, Any]


def _open(path: Path) -> tuple[pq.ParquetFile, _Metadata]:
    """The Parquet file and what its metadata say; ``DetectionError`` unless it holds detections."""
    remedy = "make it with `longtail predict`, or give LVIS results with the ending .json"
    try:
        with path.open("rb"):
            pass  # the system's own error for a missing or unreadable file
        file = pq.ParquetFile(path, page_checksum_verification=True)
        content = msgspec.json.decode((file.schema_arrow.metadata or {})[METADATA], type=_Metadata)
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        raise DetectionError("not a file of detections", where=path, found=error, remedy=remedy) from None
    except OSError as error:
        raise file_error("read", path, error) from error
    fields = _BOX_FIELDS + (_MASK_FIELDS if "segm" in content.iou_types else [])
    for field in fields:
        index = file.schema_arrow.get_field_index(field.name)
        found = file.schema_arrow.field(index).type if index >= 0 else "no such column"
        if found != field.type:
            raise DetectionError(
                f"bad column {field.name}", where=path, found=found, expected=field.type, remedy=remedy
            )
    return file, content


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Turn what Arrow says to pages that do not have their checksum or cannot be unpacked into our error."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise DetectionError(
            "damaged file of detections", where=path, found=error, remedy="predict again"
        ) from None


def read_detections(path: Path) -> DetectionTable:
    """Read detections from Parquet, or from LVIS results where the name ends in ``.json``.

    Raises ``DetectionError`` for a file that is not one of these, or with values that are not finite.
    """
    path = Path(path)
    if path.suffix == ".json":
        return read_lvis_results(path)
    file, content = _open(path)
    with _undamaged(path):
        rows = file.read()
    masks = "segm" in content.iou_types
    table = DetectionTable(
        path=path,
        image_ids=rows["image_id"].to_numpy(),
        category_ids=rows["category_id"].to_numpy(),
        scores=rows["score"].to_numpy().astype(np.float64),
        boxes=np.stack([rows[name].to_numpy() for name in _BOX], axis=1).astype(np.float64),
        mask_sizes=np.stack([rows[name].to_numpy() for name in ("mask_height", "mask_width")], axis=1).astype(
            np.int64
        )
        if masks
        else None,
        mask_counts=rows["mask_counts"] if masks else None,
        vocabulary=content.vocabulary,
        description=content.description,
        row_word="row",
    )
    table.check_values()
    return table


Side = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class _Mask(msgspec.Struct, gc=False):
    size: tuple[Side, Side]
    counts: str


class _Result(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    score: float
    bbox: tuple[float, float, float, float] | None = None
    segmentation: _Mask | None = None


def read_lvis_results(path: Path) -> DetectionTable:
    """Read a list of ``{image_id, category_id, score, bbox and/or segmentation}`` as LVIS and COCO define it.

    ``bbox`` is x, y, width, height; ``segmentation`` a compressed RLE. All records must have the same of the
    two. Raises ``DetectionError`` naming the record for anything else.
    """
    path = Path(path)
    content = read_bytes(path)
    try:
        results = msgspec.json.decode(content, type=list[_Result])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        special = next((word for word in (b"NaN", b"Infinity") if word in content), None)
        raise DetectionError(
            "not an LVIS results file",
            where=path,
            found=f"{special.decode()}, which is no JSON number ({error})" if special else error,
            expected='[{"image_id": int, "category_id": int, "score": float, "bbox": [x, y, width, height], '
            '"segmentation": {"size": [height, width], "counts": compressed RLE}}, ...]',
            remedy="write the file again; masks are encoded by pycocotools.mask.encode",
        ) from None
    del content
    for field in ("bbox", "segmentation"):
        present = np.fromiter((getattr(item, field) is not None for item in results), bool, len(results))
        if present.any() and not present.all():
            row = int(np.argmin(present))
            raise DetectionError(
                f"some records have a {field}, others not", where=f"{path}, record {row} (from 0)"
            )
    boxes = bool(results) and results[0].bbox is not None
    masks = bool(results) and results[0].segmentation is not None
    if results and not boxes and not masks:
        raise DetectionError("records have neither bbox nor segmentation", where=path)
    if not results:
        boxes = masks = True  # an empty list is an answer to both questions
    count = len(results)
    table = DetectionTable(
        path=path,
        image_ids=np.fromiter((item.image_id for item in results), np.int64, count),
        category_ids=np.fromiter((item.category_id for item in results), np.int64, count),
        scores=np.fromiter((item.score for item in results), np.float64, count),
        boxes=np.array([item.bbox for item in results], np.float64).reshape(-1, 4) if boxes else None,
        mask_sizes=np.array(
            [item.segmentation.size for item in results if item.segmentation], np.int64
        ).reshape(-1, 2)
        if masks
        else None,
        mask_counts=pa.chunked_array(
            [
                pa.array(
                    [item.segmentation.counts.encode() for item in results if item.segmentation],
                    pa.large_binary(),
                )
            ]
        )
        if masks
        else None,
        vocabulary=None,
        description={},
        row_word="record",
    )
    table.check_values()
    return table


def write_lvis_results(detections: Path, output: Path) -> None:
    """Convert a Parquet file of detections to LVIS results, atomically and in constant memory.

    Numbers are the exact values of the stored float32, so that both files evaluate the same. Records of mask
    models hold ``bbox`` and ``segmentation``: tools that take an object's size from ``bbox`` where there is
    one (lvis-api does) need it removed for the size classes of mask AP.
    """
    file, content = _open(Path(detections))
    masks = "segm" in content.iou_types
    encoder = msgspec.json.Encoder()
    with atomic_path(output) as temporary, temporary.open("wb") as stream:
        stream.write(b"[")
        separator = b"\n"
        batches = file.iter_batches(batch_size=ROW_GROUP)
        while True:
            with _undamaged(Path(detections)):
                batch = next(batches, None)
            if batch is None:
                break
            columns = batch.to_pydict()  # float32 becomes the Python float of the same value
            for row in range(batch.num_rows):
                record = {
                    "image_id": columns["image_id"][row],
                    "category_id": columns["category_id"][row],
                    "score": columns["score"][row],
                    "bbox": [columns[name][row] for name in _BOX],
                }
                if masks:
                    record["segmentation"] = {
                        "size": [columns["mask_height"][row], columns["mask_width"][row]],
                        "counts": columns["mask_counts"][row].decode("ascii"),
                    }
                stream.write(separator + encoder.encode(record))
                separator = b",\n"
        stream.write(b"\n]\n")
