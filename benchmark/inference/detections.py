"""Detections on disk: Parquet columns, and the LVIS results format (JSON) that other tools read.

One Parquet row is one detection: ``image_id`` and ``category_id`` int64, ``score`` float32, ``x y width
height`` float32 in pixels of the original image; with masks also ``mask_height`` and ``mask_width`` int32 and
``mask_counts``, the bytes of COCO's compressed run-length encoding. The rows of an image are contiguous, in
the order of the model's output. The metadata of the file contain a hash of the categories, the description of
the run and the IoU types that can be evaluated.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from operator import attrgetter
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
from benchmark.annotations.run_lengths import decode_run_lengths
from benchmark.errors import BenchmarkError
from benchmark.files import atomic_path, file_error, read_bytes
from benchmark.formats import BYTE_ORDER_MARK, HEAD, foreign_format
from benchmark.progress import shown_progress

METADATA = b"longtail"
ROW_GROUP = 65536
_CACHED = 4096  # number of masks that fit into a processor's cache
_FEW = 2**20
_MAXIMUM_ROWS = 2**27  # 20 times LVIS's 300 in 20,000 images: a larger file is damaged or malicious
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
    """Detections cannot be written, read or matched with the ground truth."""


@dataclass(frozen=True)
class Masks:
    """M masks with checked run lengths: ``counts`` are COCO's compressed codes (bytes).

    ``sizes`` int64 (M, 2) is height and width; ``areas`` float64 (M,) are pixels.
    """

    sizes: np.ndarray
    counts: list[bytes]
    areas: np.ndarray


@dataclass(frozen=True)
class MaskRows:
    """The masks of consecutive detections, unchecked.

    ``sizes`` int32 (N, 2) is height and width; ``offsets`` int32 (N + 1,): the compressed code n is
    ``characters[offsets[n]:offsets[n + 1]]``.
    """

    sizes: np.ndarray
    offsets: np.ndarray
    characters: bytes

    @classmethod
    def of(cls, sizes: np.ndarray, codes: Sequence[bytes]) -> Self:
        """From one code for each size."""
        offsets = np.fromiter(accumulate(map(len, codes), initial=0), np.int32, len(codes) + 1)
        return cls(sizes, offsets, b"".join(codes))

    def codes(self, rows: np.ndarray) -> list[bytes]:
        """The codes of some of the rows."""
        borders = zip(self.offsets[rows].tolist(), self.offsets[rows + 1].tolist(), strict=True)
        return [self.characters[start:stop] for start, stop in borders]


@dataclass(frozen=True)
class DetectionTable:
    """N detections as columns, in file order.

    ``image_ids``, ``category_ids`` int64 (N,); ``scores`` (N,); ``boxes`` (N, 4) as x, y, width, height in
    pixels, or None. These are float32 from Parquet and float64 from JSON, as in the file. Masks are only read
    by ``masks``: ``mask_rows`` yields them in order, None if there are none. ``vocabulary`` is the hash of
    the categories, None if the file has none.
    """

    path: Path
    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray | None
    mask_rows: Callable[[], Iterator[MaskRows]] | None
    vocabulary: str | None
    description: dict[str, Any]
    row_word: str

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def iou_types(self) -> list[str]:
        """The IoU types that can be evaluated: ``bbox``, ``segm`` or both."""
        present = {"bbox": self.boxes, "segm": self.mask_rows}
        return [name for name, column in present.items() if column is not None]

    def check_values(self) -> None:
        """Raise ``DetectionError`` for scores or boxes that are not finite, and boxes of a negative size."""
        # the sum is finite only if all values are, and takes a fifth of the time of checking each
        with np.errstate(over="ignore", invalid="ignore"):
            if not np.isfinite(self.scores.sum()):
                self._refuse(~np.isfinite(self.scores), self.scores, "score", "a finite number")
            if self.boxes is None or len(self) == 0:
                return
            if not np.isfinite(self.boxes.sum()):
                self._refuse(~np.isfinite(self.boxes).all(axis=1), self.boxes, "box", "four finite numbers")
        if self.boxes[:, 2:].min() < 0:
            negative = np.any(self.boxes[:, 2:] < 0, axis=1)
            self._refuse(negative, self.boxes, "box", "x, y, width >= 0, height >= 0")

    def locate(
        self, vocabulary: Mapping[int, str], image_ids: np.ndarray, truth: Path
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions int64 (N,) of every detection's image and category in the ground truth file ``truth``.

        ``vocabulary`` is category id to name in ascending id, ``image_ids`` int64 ascend. Raises
        ``DetectionError`` if the detections do not belong to ``truth``.
        """
        if self.vocabulary is not None:
            check_same_vocabulary(
                Vocabulary(f"detections {self.path}", self.vocabulary),
                Vocabulary.of(f"ground truth {truth}", vocabulary.items()),
                DetectionError,
                remedy="evaluate against the annotation file of the dataset that the model was trained on",
            )
        # the rows of an image are contiguous, so only few ids need to be looked up
        begins = np.ones(len(self), bool)
        np.not_equal(self.image_ids[1:], self.image_ids[:-1], out=begins[1:])
        first = np.flatnonzero(begins)
        lengths = np.diff(np.append(first, len(self)))
        images, unknown = _positions(image_ids, self.image_ids[first])
        if unknown.any():
            self._refuse(np.repeat(unknown, lengths), self.image_ids, "image_id", f"an image of {truth}")
        known = np.fromiter(vocabulary, np.int64, len(vocabulary))
        categories, unknown = _positions(known, self.category_ids)
        self._refuse(unknown, self.category_ids, "category_id", f"a category of {truth}")
        return np.repeat(images, lengths), categories

    def masks(self, rows: np.ndarray, sizes: np.ndarray) -> Masks:
        """Read the masks of ``rows`` (ascending); ``sizes`` (N, 2) is height and width of every row's image.

        Keeps only these rows in memory. Raises ``DetectionError`` for any mask of the file that does not have
        its image's size, and for one of ``rows`` whose run lengths do not add up to the image, because C
        libraries do not check them.
        """
        assert self.mask_rows is not None
        counts: list[bytes] = []
        areas = np.zeros(len(rows))
        start = 0
        for batch in self.mask_rows():
            stop = start + len(batch.sizes)
            wrong = np.any(batch.sizes != sizes[start:stop], axis=1)
            expected = f"{sizes[start + int(np.argmax(wrong))].tolist()}, height and width of the image"
            self._refuse(wrong, batch.sizes, "mask size", expected, start)
            low, high = np.searchsorted(rows, (start, stop))
            codes = batch.codes(rows[low:high] - start)
            for part in range(0, len(codes), _CACHED):
                piece = codes[part : part + _CACHED]
                chosen = rows[low + part : low + part + len(piece)]
                sums, areas[low + part : low + part + len(piece)] = run_length_sums(piece)
                wrong = sums != sizes[chosen].astype(np.int64).prod(axis=1)
                if wrong.any():
                    worst = int(np.argmax(wrong))
                    self._refuse(
                        wrong[worst : worst + 1],
                        sums[worst : worst + 1],
                        "mask: its run lengths do not make up the image",
                        f"lengths >= 0 that add up to {sizes[chosen[worst]].astype(np.int64).prod()} pixels",
                        int(chosen[worst]),
                    )
            counts += codes
            start = stop
        return Masks(sizes[rows], counts, areas)

    def _refuse(
        self, wrong: np.ndarray, values: np.ndarray, field: str, expected: str, start: int = 0
    ) -> None:
        """Raise an error that names the first wrong row; ``wrong`` and ``values`` begin at row ``start``."""
        if not wrong.any():
            return
        row = int(np.argmax(wrong))
        raise DetectionError(
            f"bad {field} in {int(wrong.sum())} of {len(wrong)} detections",
            where=f"{self.path}, {self.row_word} {start + row} (counted from 0), "
            f"image {self.image_ids[start + row]}",
            found=values[row].tolist(),
            expected=expected,
            remedy="the file is of another dataset or of a broken model; predict again",
        )


def _positions(known: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of ``ids`` in the ascending ``known``, and which ids are missing."""
    if len(known) == 0:
        return np.zeros(len(ids), np.int64), np.ones(len(ids), bool)
    if len(ids) > _FEW and ids.min() >= 0 <= known[0] and max(ids.max(), known[-1]) < _FEW:
        positions = np.full(_FEW, -1)  # a table is ten times faster than a search
        positions[known] = np.arange(len(known))
        found = positions[ids]
        return found, found < 0
    found = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return found, known[found] != ids


def run_length_sums(codes: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Sums of M compressed run-length codes: of all pixels, and of those of the object.

    Both are int64 (M,). The sum is -1 for a code that cannot be read, that has a negative run, or that ends
    in the middle of a number.
    """
    lengths = np.fromiter(map(len, codes), np.int64, len(codes))
    runs, numbers, bad = decode_run_lengths(np.frombuffer(b"".join(codes), np.uint8), lengths)
    areas, totals = np.zeros(len(codes), np.int64), np.zeros(len(codes), np.int64)
    filled = numbers > 0
    if filled.any():
        heads = (np.cumsum(numbers) - numbers)[filled]
        totals[filled] = np.add.reduceat(runs, heads)
        runs[::2] = 0
        odd = np.add.reduceat(runs, heads)  # of the object, if the code begins at an even place
        areas[filled] = np.where(heads % 2, totals[filled] - odd, odd)
    totals[bad] = -1
    return totals, areas


class DetectionWriter:
    """Writes detections image by image; the file appears only if the ``with`` block ends without an error.

    ``vocabulary`` is category id to name of the ground truth, ``description`` the source of the detections
    (JSON values), ``masks`` whether every detection has a mask. Keeps only one row group in memory.
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
            mask_rows=None,
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
    """The Parquet file and its metadata; ``DetectionError`` if it does not contain detections."""
    remedy = "make it with `longtail predict`, or give LVIS results with the ending .json"
    try:
        with path.open("rb"):
            pass  # the system's own error for a missing or unreadable file
        file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)
        content = msgspec.json.decode((file.schema_arrow.metadata or {})[METADATA], type=_Metadata)
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        if (
            isinstance(error, OSError) and error.errno is not None
        ):  # Arrow's errors about the content have no error number
            raise file_error("read", path, error) from error
        with path.open("rb") as stream:
            head = stream.read(HEAD)
        foreign = None if head.startswith(b"PAR1") else foreign_format(head)
        raise DetectionError(
            "not a file of detections",
            where=path,
            found=foreign.name if foreign else error,
            expected="Parquet, or results as JSON under a name that ends in .json",
            remedy=foreign.remedy if foreign else remedy,
        ) from None
    fields = _BOX_FIELDS + (_MASK_FIELDS if "segm" in content.iou_types else [])
    for field in fields:
        index = file.schema_arrow.get_field_index(field.name)
        found = file.schema_arrow.field(index).type if index >= 0 else "no such column"
        if found != field.type:
            raise DetectionError(
                f"bad column {field.name}", where=path, found=found, expected=field.type, remedy=remedy
            )
    if not 0 <= file.metadata.num_rows <= _MAXIMUM_ROWS:
        raise DetectionError(
            "too many detections",
            where=path,
            found=f"{file.metadata.num_rows:,} rows",
            expected=f"at most {_MAXIMUM_ROWS:,}",
            remedy="the file is damaged or malicious: predict again",
        )
    return file, content


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Convert Arrow's errors for pages with a wrong checksum, or that cannot be decompressed, to ours."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DetectionError(
            "damaged file of detections", where=path, found=error, remedy="predict again"
        ) from None


def read_detections(path: Path) -> DetectionTable:
    """Read detections from Parquet, or from LVIS results if the name ends in ``.json``.

    Raises ``DetectionError`` for a file that is not one of these, or with values that are not finite.
    """
    path = Path(path)
    if path.suffix == ".json":
        return read_lvis_results(path)
    file, content = _open(path)
    rows = file.metadata.num_rows
    boxes = np.empty((rows, 4), np.float32)
    images, categories, scores = (np.empty(rows, kind) for kind in (np.int64, np.int64, np.float32))
    start = 0
    for batch in _batches(path, file, [field.name for field in _BOX_FIELDS]):
        part = slice(start, start + batch.num_rows)
        for column, target in zip(batch.columns, (images, categories, scores, *boxes.T), strict=True):
            target[part] = np.from_dlpack(column)  # `to_numpy` imports pandas, which takes half a second
        start = part.stop
    table = DetectionTable(
        path=path,
        image_ids=images,
        category_ids=categories,
        scores=scores,
        boxes=boxes,
        mask_rows=partial(_mask_rows, path, file) if "segm" in content.iou_types else None,
        vocabulary=content.vocabulary,
        description=content.description,
        row_word="row",
    )
    table.check_values()
    return table


def _batches(path: Path, file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a file in batches; ``DetectionError`` if it is damaged or a value is missing."""
    batches = file.iter_batches(batch_size=ROW_GROUP, columns=columns, use_threads=False)
    rows = 0
    while True:
        with _undamaged(path):
            batch = next(batches, None)
            if batch is not None:
                batch.validate(full=True)
        if batch is None:
            break
        rows += batch.num_rows
        missing = [name for name, column in zip(columns, batch.columns, strict=True) if column.null_count]
        if missing or rows > file.metadata.num_rows:
            raise DetectionError(
                "damaged file of detections",
                where=path,
                found=f"no value in column {missing[0]}" if missing else "more rows than it says",
                remedy="predict again",
            )
        yield batch
    if rows != file.metadata.num_rows:
        raise DetectionError(
            "damaged file of detections",
            where=path,
            found=f"{rows} rows",
            expected=f"{file.metadata.num_rows}, as it says",
            remedy="predict again",
        )


def _mask_rows(path: Path, file: pq.ParquetFile) -> Iterator[MaskRows]:
    """The masks of a file, in batches; raises as ``_batches``."""
    for batch in _batches(path, file, [field.name for field in _MASK_FIELDS]):
        height, width, codes = batch.columns
        sizes = np.stack([np.from_dlpack(height), np.from_dlpack(width)], axis=1)
        yield MaskRows.of(sizes, codes.to_pylist())


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


_RECORDS = msgspec.json.Decoder(list[_Result])
_FIELDS = [attrgetter(name) for name in _Result.__struct_fields__]
_PIECE = 2**18  # bytes, whose records fit into a processor's cache
_BORDER = re.compile(rb"\}\s*,\s*\{")


@dataclass(frozen=True)
class _Piece:
    """Consecutive records as columns, as in ``DetectionTable``."""

    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray | None
    masks: MaskRows | None


def read_lvis_results(path: Path) -> DetectionTable:
    """Read a list of ``{image_id, category_id, score, bbox and/or segmentation}`` as LVIS and COCO define it.

    ``bbox`` is x, y, width, height; ``segmentation`` a compressed RLE. All records must have the same fields.
    Raises ``DetectionError`` naming the record for anything else. Memory holds the columns, and some thousand
    records as text and as Python objects.
    """
    path = Path(path)
    pieces = _pieces(path)
    boxes = [piece.boxes for piece in pieces if piece.boxes is not None]
    masks = [piece.masks for piece in pieces if piece.masks is not None]
    table = DetectionTable(
        path=path,
        image_ids=np.concatenate([piece.image_ids for piece in pieces]),
        category_ids=np.concatenate([piece.category_ids for piece in pieces]),
        scores=np.concatenate([piece.scores for piece in pieces]),
        boxes=np.concatenate(boxes) if boxes else None,
        mask_rows=partial(iter, [part for part in masks if len(part.sizes)]) if masks else None,
        vocabulary=None,
        description={},
        row_word="record",
    )
    table.check_values()
    return table


def _pieces(path: Path) -> list[_Piece]:
    """The records of a file as columns, in pieces; in one piece if the pieces cannot be decoded."""
    pieces: list[_Piece] = []
    rows = 0
    try:
        for text in _lists(path):
            pieces.append(_columns(text, path, rows, pieces[:1]))
            rows += len(pieces[-1].scores)
        return pieces
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError):
        pass  # decoded again below, for an error with a position in the whole file
    content = read_bytes(path).removeprefix(BYTE_ORDER_MARK)
    try:
        return [_columns(content, path, 0, [])]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if foreign := foreign_format(content[:HEAD]):
            raise DetectionError(
                "not a JSON file", where=path, found=foreign.name, remedy=foreign.remedy
            ) from None
        special = next((word for word in (b"NaN", b"Infinity") if word in content), None)
        raise DetectionError(
            "not an LVIS results file",
            where=path,
            found=f"{special.decode()}, which is no JSON number ({error})" if special else error,
            expected='[{"image_id": int, "category_id": int, "score": float, "bbox": [x, y, width, height], '
            '"segmentation": {"size": [height, width], "counts": compressed RLE}}, ...]',
            remedy="write the file again; masks are encoded by pycocotools.mask.encode",
        ) from None


def _lists(path: Path) -> Iterator[bytes]:
    """Split a JSON list of records into several lists of a few megabytes.

    A piece ends between two objects. If these are inside one record, the piece is not valid JSON.
    """
    with path.open("rb") as stream:
        text = stream.read(_PIECE).removeprefix(BYTE_ORDER_MARK).lstrip()
        while block := stream.read(_PIECE):
            text += block
            if border := _BORDER.search(text, len(text) // 2):
                yield text[: border.start() + 1] + b"]"
                text = b"[" + text[border.end() - 1 :]
        yield text


def _columns(content: bytes, path: Path, first: int, before: list[_Piece]) -> _Piece:
    """Decode a list of records that begins at record ``first`` of the file.

    All must have the same fields as those of ``before``, the first piece of the file.
    """
    results = _RECORDS.decode(content)
    image_ids, category_ids, scores, boxes, masks = (list(map(field, results)) for field in _FIELDS)
    fields = []
    for field, column, values in (("bbox", "boxes", boxes), ("segmentation", "masks", masks)):
        # an empty list can be evaluated as either
        expected = getattr(before[0], column) is not None if before else values[:1] != [None]
        if values.count(None) != (0 if expected else len(values)):
            row = first + next(row for row, value in enumerate(values) if (value is None) == expected)
            raise DetectionError(
                f"some records have a {field}, others do not", where=f"{path}, record {row} (counted from 0)"
            )
        fields.append(expected)
    if not any(fields):
        raise DetectionError("records have neither bbox nor segmentation", where=path)
    return _Piece(
        image_ids=np.array(image_ids, np.int64),
        category_ids=np.array(category_ids, np.int64),
        scores=np.array(scores, np.float64),
        boxes=_rows_of(boxes, 4, np.float64) if fields[0] else None,
        masks=MaskRows.of(
            _rows_of([mask.size for mask in masks], 2, np.int32), [mask.counts.encode() for mask in masks]
        )
        if fields[1]
        else None,
    )


def _rows_of(values: list[Any], length: int, kind: type) -> np.ndarray:
    """An array (N, length) of N tuples, three times as fast as from the tuples themselves."""
    return np.fromiter(chain.from_iterable(values), kind, length * len(values)).reshape(-1, length)


def write_lvis_results(detections: Path, output: Path) -> None:
    """Convert a Parquet file of detections to LVIS results, atomically and in constant memory.

    Numbers are the exact values of the stored float32, so both files give the same metrics. Records of mask
    models have ``bbox`` and ``segmentation``: for the size classes of mask AP, remove ``bbox`` if a tool
    takes the size of an object from it (as lvis-api does).
    """
    file, content = _open(Path(detections))
    masks = "segm" in content.iou_types
    encoder = msgspec.json.Encoder()
    with (
        atomic_path(output) as temporary,
        temporary.open("wb") as stream,
        shown_progress("detections") as advance,
    ):
        stream.write(b"[")
        separator, done = b"\n", 0
        for batch in _batches(Path(detections), file, file.schema_arrow.names):
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
            done += batch.num_rows
            advance(done, file.metadata.num_rows)
        stream.write(b"\n]\n")
