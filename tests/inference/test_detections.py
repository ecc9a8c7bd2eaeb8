"""Detections survive writing and reading unchanged, and errors in files are reported with the row."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from benchmark.annotations import vocabulary_hash
from benchmark.errors import FileError
from benchmark.inference import detections as module
from benchmark.inference.detections import (
    DetectionError,
    DetectionTable,
    DetectionWriter,
    read_detections,
    read_lvis_results,
    run_length_sums,
    write_lvis_results,
)

NAMES = {3: "acorn", 8: "banana"}
BOX = np.zeros((480, 640), np.uint8, order="F")
BOX[100:110, 50:62] = 1
RLES = [mask_utils.encode(mask) for mask in (np.zeros_like(BOX), BOX)]
RESULT = {"image_id": 7, "category_id": 3, "score": 0.5, "bbox": [1, 2, 3, 4]}


def write(path: Path, masks: bool = True) -> Path:
    with DetectionWriter(path, NAMES, {"run": "softmax"}, masks) as writer:
        boxes = [[0.1, 0.2, 30.3, 40.7], [5, 6, 7, 8]]
        writer.add(7, np.array([3, 8]), np.array([0.1, 0.9]), boxes, RLES if masks else None)
        writer.add(9, [], [], [], [])
        assert writer.rows == 2
    return path


@pytest.mark.parametrize("masks", [True, False])
def test_both_formats_hold_the_same_numbers(masks: bool, tmp_path: Path) -> None:
    """The JSON holds the exact values of the stored float32."""
    parquet = write(tmp_path / "detections.parquet", masks)
    write_lvis_results(parquet, tmp_path / "results.json")
    first, second = read_detections(parquet), read_detections(tmp_path / "results.json")
    assert first.iou_types == second.iou_types == (["bbox", "segm"] if masks else ["bbox"])
    assert first.scores.tolist() == [float(np.float32(0.1)), float(np.float32(0.9))]
    for name in ("image_ids", "category_ids", "scores", "boxes"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    if masks:
        for table in (first, second):
            found = table.masks(np.arange(2), np.array([[480, 640]] * 2))
            assert found.counts == [item["counts"] for item in RLES]
            assert found.areas.tolist() == [0, 120]
    assert first.vocabulary == vocabulary_hash(NAMES.items())
    assert first.description == {"run": "softmax"}


def test_row_groups_do_not_change_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP", 5)
    with DetectionWriter(tmp_path / "many.parquet", NAMES, {}, masks=False) as writer:
        for image in range(9):
            writer.add(image, [3] * 3, [0.5] * 3, [[image, k, 1, 1] for k in range(3)])
    table = read_detections(tmp_path / "many.parquet")
    assert table.image_ids.tolist() == [image for image in range(9) for _ in range(3)]
    write_lvis_results(tmp_path / "many.parquet", tmp_path / "many.json")
    np.testing.assert_array_equal(read_lvis_results(tmp_path / "many.json").boxes, table.boxes)


def test_masks_are_those_of_their_rows_in_any_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of several row groups, read in batches that end elsewhere."""
    rles = [RLES[number] for number in (0, 1, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0)]
    monkeypatch.setattr(module, "ROW_GROUP", 5)
    with DetectionWriter(tmp_path / "many.parquet", NAMES, {}, masks=True) as writer:
        for image in range(6):
            pair = rles[2 * image : 2 * image + 2]
            writer.add(image, [3] * 2, [0.5] * 2, [[0, 0, 1, 1]] * 2, pair)
    write_lvis_results(tmp_path / "many.parquet", tmp_path / "many.json")
    monkeypatch.setattr(module, "ROW_GROUP", 4)
    chosen = np.array([0, 3, 4, 5, 9, 10])
    for name in ("many.parquet", "many.json"):
        found = read_detections(tmp_path / name).masks(chosen, np.array([[480, 640]] * 12))
        assert found.counts == [rles[row]["counts"] for row in chosen]


def test_nothing_detected_is_a_valid_file(tmp_path: Path) -> None:
    with DetectionWriter(tmp_path / "none.parquet", NAMES, {}, masks=True):
        pass
    write_lvis_results(tmp_path / "none.parquet", tmp_path / "none.json")
    assert json.loads((tmp_path / "none.json").read_text()) == []
    for name in ("none.parquet", "none.json"):
        assert len(read_detections(tmp_path / name)) == 0


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"scores": [0.1, np.nan]}, "bad score"),
        ({"boxes_xywh": [[0, 0, 1, 1], [0, np.inf, 1, 1]]}, "bad box"),
        ({"boxes_xywh": [[0, 0, 1, 1], [0, 0, -1, 1]]}, "bad box"),
        ({"category_ids": [3, 4]}, "bad category_id"),
        ({"rles": RLES[:1]}, "different lengths"),
    ],
)
def test_writer_refuses_what_cannot_be_evaluated_and_leaves_no_file(
    change: dict[str, Any], part: str, tmp_path: Path
) -> None:
    good: dict[str, Any] = {"category_ids": [3, 8], "scores": [0.1, 0.2], "rles": RLES}
    good |= {"boxes_xywh": [[0, 0, 1, 1], [0, 0, 2, 2]]}
    with (
        pytest.raises(DetectionError, match=part) as caught,
        DetectionWriter(tmp_path / "out.parquet", NAMES, {}, masks=True) as writer,
    ):
        writer.add(7, **(good | change))
    assert "image 7" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('[{"image_id": 7, "category_id": 3, "score": NaN, "bbox": [1, 2, 3, 4]}]', ["NaN"]),
        (json.dumps([RESULT, RESULT])[:-20], ["not an LVIS results file"]),
        (json.dumps([RESULT, RESULT | {"score": "high"}]), ["$[1].score"]),
        (json.dumps([RESULT | {"bbox": [1, 2, 3]}]), ["$[0].bbox"]),
        (
            json.dumps([RESULT | {"segmentation": [[1, 2, 3, 4]]}]),
            ["$[0].segmentation", "pycocotools.mask.encode"],
        ),
        (json.dumps({"annotations": [RESULT]}), ["array"]),
        (
            json.dumps([RESULT, {k: v for k, v in RESULT.items() if k != "bbox"}]),
            ["some records", "record 1"],
        ),
        (json.dumps([{k: v for k, v in RESULT.items() if k != "bbox"}]), ["neither bbox nor segmentation"]),
        (json.dumps([RESULT, RESULT | {"score": 1e999}]), ["Infinity"]),
        (json.dumps([RESULT, RESULT | {"image_id": 2**70}]), ["$[1].image_id"]),
        (
            json.dumps([RESULT | {"segmentation": {"size": [2**70, 1], "counts": "0"}}]),
            ["$[0].segmentation.size"],
        ),
    ],
)
def test_broken_results_are_named_by_record_and_field(text: str, parts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(DetectionError) as caught:
        read_detections(path)
    for part in [str(path), *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize("size", [1, 40, 300])
def test_results_are_the_same_however_they_are_cut(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if an object ends inside a record, or seems to end inside a text."""
    path = tmp_path / "results.json"
    masked = RESULT | {"segmentation": {"size": [4, 5], "counts": "014000000"}}
    records = [
        masked | {"score": row / 50, "extra": [{"a": 1}, {"b": "}, {"}][: row % 3]} for row in range(50)
    ]
    path.write_text(f" {json.dumps(records)}\n")
    whole = read_detections(path)
    monkeypatch.setattr(module, "_PIECE", size)
    table = read_detections(path)
    for column in ("image_ids", "category_ids", "scores", "boxes"):
        np.testing.assert_array_equal(getattr(table, column), getattr(whole, column))
    sizes = np.tile([4, 5], (50, 1))
    assert table.masks(np.arange(50), sizes).counts == whole.masks(np.arange(50), sizes).counts
    del records[30]["bbox"]
    path.write_text(json.dumps(records))
    with pytest.raises(DetectionError, match="record 30"):
        read_detections(path)


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    parquet = write(tmp_path / "detections.parquet")
    content = parquet.read_bytes()
    parquet.write_bytes(content[: len(content) // 2])
    for path in (parquet, Path(__file__)):
        with pytest.raises(DetectionError, match="not a file of detections"):
            read_detections(path)
    with pytest.raises(FileError):
        read_detections(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        {},
        {"iou_types": 3},
        {"iou_types": ["bbox"]},
        {"iou_types": [], "vocabulary": 3, "description": {}},
    ],
)
def test_parquet_with_foreign_metadata_is_named(tmp_path: Path, metadata: object) -> None:
    path = write(tmp_path / "detections.parquet")
    table = pq.read_table(path).replace_schema_metadata({module.METADATA: json.dumps(metadata).encode()})
    pq.write_table(table, path)
    with pytest.raises(DetectionError, match="not a file of detections"):
        read_detections(path)


def test_a_flipped_bit_is_not_read_as_other_numbers(tmp_path: Path) -> None:
    """The page of scores is stored uncompressed if that is smaller, so only a checksum notices the bit."""
    path = tmp_path / "detections.parquet"
    with DetectionWriter(path, NAMES, {}, masks=False) as writer:
        writer.add(7, [3] * 50, np.random.default_rng(0).random(50), [[1, 2, 3, 4]] * 50)
    content = bytearray(path.read_bytes())
    place = content.find(np.random.default_rng(0).random(50).astype(np.float32)[10:12].tobytes())
    if place < 0:
        column = pq.ParquetFile(path).metadata.row_group(0).column(2)
        place = column.data_page_offset + column.total_compressed_size - 20
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DetectionError, match="damaged file"):
        read_detections(path)
    with pytest.raises(DetectionError, match="damaged file"):
        write_lvis_results(path, tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()


SIZES = np.array([[480, 640]])


def table_of(path: Path, counts: bytes | str, size: tuple[int, int] = (480, 640)) -> DetectionTable:
    text = counts if isinstance(counts, str) else counts.decode("latin-1")
    record = {**RESULT, "segmentation": {"size": size, "counts": text}}
    path.write_text(json.dumps([record]))
    return read_detections(path)


@pytest.mark.parametrize(
    "counts",
    [
        b"",
        b"0",  # one run of no pixels
        RLES[1]["counts"][:-1],
        RLES[1]["counts"] + b"1",
        RLES[1]["counts"][:-1] + b"P",  # a number that goes on after the end
        b"O" + RLES[1]["counts"],  # a negative run
        b"PPYo1O",
        b"PPY\x7f1",
        b"\x00PYo1",
        b"P" * 40 + b"1",  # a number of 200 bits
        b"oooooo1",
        b"0" * 5000,
    ],
)
def test_run_lengths_that_do_not_make_up_the_image_are_refused(counts: bytes, tmp_path: Path) -> None:
    """Libraries in C would read or write beyond the end of the mask."""
    table = table_of(tmp_path / "results.json", counts)
    with pytest.raises(DetectionError, match="its run lengths do not make up the image") as caught:
        table.masks(np.arange(1), SIZES)
    assert "record 0 (counted from 0), image 7" in str(caught.value)


def test_masks_of_another_size_are_refused_even_where_they_do_not_count(tmp_path: Path) -> None:
    table = table_of(tmp_path / "results.json", RLES[0]["counts"], (640, 480))
    with pytest.raises(DetectionError, match="bad mask size"):
        table.masks(np.zeros(0, np.int64), SIZES)


@settings(max_examples=200)
@given(
    st.lists(
        st.lists(st.integers(0, 90), min_size=1, max_size=30).map(lambda runs: [*runs, 30_000 - sum(runs)]),
        min_size=1,
        max_size=8,
    ),
)
def test_sums_of_run_lengths(codes: list[list[int]]) -> None:
    """The sums are those of the runs that were encoded."""
    encoded = [mask_utils.frPyObjects({"size": [150, 200], "counts": runs}, 150, 200) for runs in codes]
    totals, areas = run_length_sums([item["counts"] for item in encoded])
    assert totals.tolist() == [30_000] * len(codes)
    assert areas.tolist() == [sum(runs[1::2]) for runs in codes]


def test_a_file_that_claims_to_be_huge_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "detections.parquet")
    monkeypatch.setattr(module, "_MAXIMUM_ROWS", 1)
    with pytest.raises(DetectionError, match="too many detections"):
        read_detections(path)


def test_missing_values_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "detections.parquet", masks=False)
    table = pq.read_table(path)
    scores = pa.array([None, 0.5], pa.float32())
    holed = table.set_column(2, pa.field("score", pa.float32()), scores)
    pq.write_table(holed.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(DetectionError, match="no value in column score"):
        read_detections(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", ["score", "width"])
def test_values_that_are_not_finite_are_refused(column: str, value: float, tmp_path: Path) -> None:
    path = write(tmp_path / "detections.parquet", masks=False)
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    changed = pa.array([0.25, value], pa.float32())
    table = table.set_column(place, table.schema.field(place), changed)
    pq.write_table(table, path)
    with pytest.raises(DetectionError, match=r"row 1 .counted from 0., image 7"):
        read_detections(path)


def test_damage_anywhere_is_an_error_or_harmless(tmp_path: Path) -> None:
    """Files with changed or missing bytes give our error or a table, and never end the interpreter."""
    generator = np.random.default_rng(0)
    for name in ("detections.parquet", "results.json"):
        path = tmp_path / name
        if name == "results.json":
            write_lvis_results(tmp_path / "detections.parquet", path)
        else:
            write(path)
        content = path.read_bytes()
        damaged = tmp_path / f"damaged_{name}"
        refused = 0
        for _ in range(150):
            changed = bytearray(content[: generator.integers(1, len(content) + 1)])
            for place in generator.integers(len(changed), size=3):
                changed[place] = generator.integers(256)
            damaged.write_bytes(changed)
            try:
                table = read_detections(damaged)
                table.masks(np.arange(len(table)), np.tile(SIZES, (len(table), 1)))
            except DetectionError:
                refused += 1
        assert refused > 100
        path.write_bytes(content)


def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("[" * 100_000)
    with pytest.raises(DetectionError, match="not an LVIS results file"):
        read_detections(path)
