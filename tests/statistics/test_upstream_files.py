"""Files in the releases' formats equal theirs and open in their readers; files with other content are
refused."""

import functools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import golden_cases, tolerance
from hypothesis import given
from hypothesis import strategies as st
from training_files import write_training_file

from benchmark.statistics import (
    ClassStatistics,
    StatisticsError,
    group_tables,
    intermediates,
    write_intermediates,
)
from benchmark.statistics.upstream_files import (
    UPSTREAM_FILES,
    group_files,
    read_upstream,
    split_names,
    tensor_bytes,
)

CLOSE = tolerance("bags")
LVIS = ClassStatistics.read("tests/data/lvis_v0.5_categories.csv")
IMAGES = 56_740
NAMES = (
    *("label2binlabel.pt", "pred_slice_with0.pt", "valsplit.pkl", "mask.pt", "cls_weight.pt"),
    *("cls_weight_bf.pt", "cls_weight_bours.pt", "bins_cls_weight.pkl", "class_to_imageid_and_inscount.pt"),
    *(
        f"{bins}/{name}"
        for bins in ("2bins", "8bins")
        for name in ("label2binlabel.pt", "pred_slice_with0.pt", "valsplit.pkl")
    ),
)
# What the releases' programs do, in a process that cannot import this project: open, and say what it is.
OPEN = """
import json, pickle, sys
sys.modules.update(benchmark=None, methods=None)
import numpy, torch
def described(value):
    if isinstance(value, dict):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, list):
        return [described(item) for item in value]
    if isinstance(value, (torch.Tensor, numpy.ndarray)):
        kind = "tensor" if isinstance(value, torch.Tensor) else "array"
        return [kind, str(value.dtype).split(".")[-1], list(value.shape), value.tolist()]
    return value
for name in sys.argv[2:]:
    path = sys.argv[1] + "/" + name
    if name.endswith(".pkl") or "class_to" in name:
        with open(path, "rb") as file:
            value = pickle.load(file)
    else:
        value = torch.load(path, weights_only=False)
        assert torch.equal(value, torch.load(path, weights_only=True))
    print(json.dumps(described(value)))
"""


@pytest.fixture(scope="module")
def lvis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder made from a training file with all 693,958 annotations of LVIS v0.5 on its 56,740 images."""
    folder = tmp_path_factory.mktemp("lvis")
    path = write_training_file(
        folder / "train.json",
        LVIS.category_ids.tolist(),
        LVIS.instance_counts.tolist(),
        LVIS.image_counts.tolist(),
        range(10, 10 * IMAGES + 10, 10),
        LVIS.names,
    )
    content, differences = intermediates(path)
    assert differences == []
    write_intermediates(content, folder / "out", upstream=True)
    return folder / "out"


@pytest.fixture(scope="module")
def opened(lvis: Path) -> dict[str, Any]:
    """The content according to ``torch.load`` and ``pickle.load``."""
    command = [sys.executable, "-I", "-c", OPEN, str(lvis), *NAMES]
    done = subprocess.run(command, cwd=lvis, text=True, capture_output=True, check=True)
    return dict(zip(NAMES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("case", golden_cases("bags", "group_tables_real"))
def test_groups_of_lvis_equal_the_golden_ones(opened: dict[str, Any], case: dict[str, Any]) -> None:
    expected = case["expected"]
    if case["inputs"]["instance_counts"] != LVIS.instance_counts.tolist():
        pytest.skip("other counts than those of LVIS v0.5")
    assert opened["pred_slice_with0.pt"] == ["tensor", "int64", [5, 2], expected["pred_slice"]]
    kind, dtype, shape, targets = opened["label2binlabel.pt"]
    assert (kind, dtype, shape) == ("tensor", "int64", [5, 1231])
    assert targets[0] == [0] + [1] * 1230
    for class_, (group, index) in enumerate(
        zip(expected["group_of_category"], expected["index_in_group"], strict=True), 1
    ):
        assert [row[class_] for row in targets[1:]] == [index if row == group else 0 for row in range(1, 5)]
    kind, dtype, shape, mask = opened["mask.pt"]
    assert (kind, dtype, shape, sum(mask)) == ("tensor", "int64", [1231], expected["num_lt100"])
    assert mask == [0] + [int(count < 100) for count in LVIS.instance_counts]


def test_splits_of_lvis_have_the_releases_keys_in_their_order(opened: dict[str, Any]) -> None:
    groups = {
        "valsplit.pkl": {"(0, 10)": 294, "[10, 100)": 453, "[100, 1000)": 302, "[1000, ~)": 181},
        "2bins/valsplit.pkl": {"[10, 100)": 747, "[1000, ~)": 483},
        "8bins/valsplit.pkl": dict.fromkeys(
            [
                "(5, 10)",
                "[50, 100)",
                "[500, 1000)",
                "[5000, ~)",
                "(0, 5)",
                "[10, 50)",
                "[100, 500)",
                "[1000, 5000)",
            ]
        ),
    }
    for name, sizes in groups.items():
        split = opened[name]
        assert list(split) == [*sizes, "normal", "background", "all"]
        assert {tuple(value[:2]) for value in split.values()} == {("array", "int64")}
        for key, size in sizes.items():
            low, high = key.strip("([)").split(", ")
            if name == "2bins/valsplit.pkl":  # its keys are those of four groups
                low, high = ("0", "100") if low == "10" else ("100", "~")
            limit = np.inf if high == "~" else int(high)
            inside = (LVIS.instance_counts >= int(low)) & (LVIS.instance_counts < limit)
            assert split[key][3] == LVIS.category_ids[inside].tolist()
            assert size in (None, len(split[key][3]))
        assert split["normal"][3] == list(range(1, 1231))
        assert split["background"][3] == [0]
        assert split["all"][3] == list(range(1231))


def test_ablations_of_lvis_have_the_published_widths(opened: dict[str, Any]) -> None:
    for name, bins, width in (("2bins", 3, 1234), ("8bins", 9, 1240)):
        assert opened[f"{name}/label2binlabel.pt"][1:3] == ["int64", [bins, 1231]]
        slices = opened[f"{name}/pred_slice_with0.pt"][3]
        assert (len(slices), sum(slices[-1])) == (bins, width)


@pytest.mark.parametrize("case", golden_cases("bags", "class_weights_real"))
def test_weights_of_lvis_equal_the_golden_ones(opened: dict[str, Any], case: dict[str, Any]) -> None:
    expected = case["expected"]
    names = ("cls_weight", "cls_weight_bf", "cls_weight_bours")
    for name, total in zip(names, expected["sums"], strict=True):
        kind, dtype, shape, weights = opened[f"{name}.pt"]
        assert (kind, dtype, shape) == ("tensor", "float64", [1231])
        np.testing.assert_allclose(np.array(weights)[expected["labels"]], expected[name], **CLOSE)
        np.testing.assert_allclose(sum(weights), total, **CLOSE)
    rows = opened["bins_cls_weight.pkl"]
    assert [row[:3] for row in rows] == [["array", "float64", [length]] for length in (295, 454, 303, 182)]
    np.testing.assert_allclose([sum(row[3]) for row in rows], expected["bins_sums"], **CLOSE)
    np.testing.assert_allclose([row[3][:5] for row in rows], expected["bins_first5"], **CLOSE)


def test_weights_of_lvis_are_the_release_formulas_to_the_last_bit(opened: dict[str, Any]) -> None:
    counts = np.append(0.0, LVIS.instance_counts)
    inverse = 1 / np.append(1.0, counts[1:])
    plain = np.append(1.0, np.clip(inverse[1:] / inverse[1:].mean(), 0.1, 5))
    assert opened["cls_weight.pt"][3] == plain.tolist()
    counts[0] = 3 * counts.sum()
    balanced = (1 - 0.999) / (1 - np.power(0.999, counts))
    assert opened["cls_weight_bf.pt"][3] == (balanced / balanced.mean()).tolist()


def test_the_index_of_lvis_has_its_images_and_counts(opened: dict[str, Any]) -> None:
    index = opened["class_to_imageid_and_inscount.pt"]
    assert list(index) == [str(class_) for class_ in range(1231)]
    # the order in which the released file has them
    assert {tuple(entry) for entry in index.values()} == {
        ("image_info_id", "img_id", "isntance_count", "category_id")
    }
    assert index["0"] == {"image_info_id": [], "img_id": [], "isntance_count": 0, "category_id": 0}
    for class_ in range(1, 1231):
        entry = index[str(class_)]
        assert entry["category_id"] == class_
        assert entry["isntance_count"] == LVIS.instance_counts[class_ - 1]
        assert len(entry["img_id"]) == LVIS.image_counts[class_ - 1]
        assert entry["image_info_id"] == sorted(set(entry["image_info_id"]))
        first = min(entry["image_info_id"])
        assert entry["img_id"][entry["image_info_id"].index(first)] >= 10 * first + 10
    assert sum(len(entry["img_id"]) for entry in index.values()) == 201_417


@pytest.mark.parametrize("case", golden_cases("bags", "group_tables"))
def test_golden_tables_from_a_file_in_any_order(case: dict[str, Any], tmp_path: Path) -> None:
    inputs, expected = case["inputs"], case["expected"]
    ids, edges = inputs["category_ids_in_file_order"], case["hyperparameters"]["group_edges"]
    position = {id_: number for number, id_ in enumerate(sorted(ids), 1)}  # what the releases call a category
    path = write_training_file(tmp_path / "train.json", ids, inputs["instance_counts_in_file_order"])
    write_intermediates(intermediates(path)[0], tmp_path / "out", edges, upstream=True)
    folder = tmp_path / "out"
    assert torch.load(folder / "label2binlabel.pt").tolist() == expected["label2binlabel"]
    assert torch.load(folder / "pred_slice_with0.pt").tolist() == expected["pred_slice"]
    assert torch.load(folder / "mask.pt").tolist() == expected["mask_lt100"]
    split = pickle.loads((folder / "valsplit.pkl").read_bytes())
    groups = {group: split[name].tolist() for name, group in split_names(edges).items()}
    members = [[position[id_] for id_ in group] for group in expected["group_category_ids"]]
    assert [groups[group] for group in sorted(groups)] == members
    assert split["normal"].tolist() == sorted(position.values())
    assert split["background"].tolist() == expected["split_background"]
    assert len(split["all"]) == expected["split_all_len"]


@pytest.mark.parametrize("case", golden_cases("bags", "class_weights"))
def test_golden_weights_in_the_files(case: dict[str, Any], tmp_path: Path) -> None:
    counts, expected = case["inputs"]["instance_counts"], case["expected"]
    path = write_training_file(tmp_path / "train.json", range(1, len(counts) + 1), counts)
    write_intermediates(intermediates(path)[0], tmp_path / "out", upstream=True)
    for name in ("cls_weight", "cls_weight_bf", "cls_weight_bours"):
        np.testing.assert_allclose(torch.load(tmp_path / "out" / f"{name}.pt"), expected[name], **CLOSE)
    rows = pickle.loads((tmp_path / "out" / "bins_cls_weight.pkl").read_bytes())
    for row, golden in zip(rows, expected["bins_cls_weight"], strict=True):
        np.testing.assert_allclose(row, golden, **CLOSE)


def test_positions_follow_the_list_of_annotated_images(tmp_path: Path) -> None:
    """As in the released index of COCO-LT, whose image ids are not ascending; ids with gaps become 1..C."""
    content = {
        "images": [{"id": id_} for id_ in (90, 30, 70, 10)],
        "categories": [{"id": id_, "name": f"c{id_}"} for id_ in (18, 3, 5)],
        "annotations": [
            {"image_id": image, "category_id": category}
            for image, category in ((10, 18), (90, 3), (10, 3), (70, 18), (10, 3))
        ],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    write_intermediates(intermediates(tmp_path / "train.json")[0], tmp_path / "out", upstream=True)
    index = pickle.loads((tmp_path / "out" / "class_to_imageid_and_inscount.pt").read_bytes())
    assert index == {
        0: {"image_info_id": [], "img_id": [], "isntance_count": 0, "category_id": 0},
        1: {"image_info_id": [0, 2], "img_id": [90, 10], "isntance_count": 3, "category_id": 1},
        2: {"image_info_id": [], "img_id": [], "isntance_count": 0, "category_id": 2},
        3: {"image_info_id": [1, 2], "img_id": [70, 10], "isntance_count": 2, "category_id": 3},
    }
    targets = torch.load(tmp_path / "out" / "label2binlabel.pt")
    assert targets[1].tolist() == [0, 2, 3, 1]  # in the order 18, 3, 5 of the file


@pytest.mark.parametrize("name", NAMES)
def test_reading_back_gives_what_the_plain_readers_give(
    name: str, lvis: Path, opened: dict[str, Any]
) -> None:
    def described(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): described(item) for key, item in value.items()}
        if isinstance(value, np.ndarray):
            kind = "tensor" if name.endswith(".pt") else "array"
            return [kind, str(value.dtype), list(value.shape), value.tolist()]
        if isinstance(value, list):
            return [described(item) for item in value]
        return value

    assert described(read_upstream(lvis / name, 1230)) == opened[name]
    with pytest.raises(StatisticsError, match=r"1230 classes\n.*1203 categories"):
        read_upstream(lvis / name, 1203)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_that_torch_saved_are_read(zipped: bool, lvis: Path, tmp_path: Path) -> None:
    for name in (name for name in NAMES if name.endswith(".pt") and "class_to" not in name):
        tensor = torch.load(lvis / name)
        path = tmp_path / Path(name).name
        torch.save(tensor, path, _use_new_zipfile_serialization=zipped)
        assert np.array_equal(read_upstream(path, 1230), tensor.numpy())


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickles_of_every_protocol_are_read(protocol: int, lvis: Path, tmp_path: Path) -> None:
    for name in (name for name in NAMES if name.endswith(".pkl") or "class_to" in name):
        content = pickle.loads((lvis / name).read_bytes())
        path = tmp_path / Path(name).name
        path.write_bytes(pickle.dumps(content, protocol))
        read = read_upstream(path, 1230)
        assert list(read) == list(content) if isinstance(content, dict) else len(read) == len(content)
        if "class_to" in name:
            assert read == content
        else:
            np.testing.assert_equal(read, content)


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=20),
    st.lists(st.integers(1, 25), min_size=1, max_size=5, unique=True).map(sorted),
    st.randoms(use_true_random=False),
)
def test_all_group_files_pass_their_own_check(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], edges: list[int], random: Any
) -> None:
    order = list(range(len(counts)))
    random.shuffle(order)
    for name, data in group_files(group_tables(counts, edges, order), edges).items():
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes(data)
        read_upstream(path, len(counts))


def wrong_contents() -> list[tuple[str, Any]]:
    targets = np.array([[0, 1, 1, 1], [0, 1, 0, 2], [0, 0, 1, 0]])
    slices = np.array([[0, 2], [2, 3], [5, 2]])
    split = {
        "(0, 10)": np.array([1, 2]),
        "normal": np.array([1, 2]),
        "background": np.array([0]),
        "all": np.arange(3),
    }
    entry = {"image_info_id": [0], "img_id": [5], "isntance_count": 2, "category_id": 1}
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    doubled: Any = ()
    for _ in range(100):
        doubled = (doubled, doubled)

    def changed(array: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
        copy = array.copy()
        copy[place] = value
        return copy

    return [
        *(("label2binlabel.pt", changed(targets, place, value)) for place, value in [
            ((0, 0), 1), ((0, 1), 0), ((1, 0), 1), ((1, 1), 0), ((1, 2), 1), ((1, 3), 3), ((2, 2), -1),
            ((1, 3), 10**12),
        ]),
        ("label2binlabel.pt", targets.astype(np.int32)),
        ("label2binlabel.pt", targets[:1]),
        ("label2binlabel.pt", targets[0]),
        ("label2binlabel.pt", targets[:, :1]),
        ("label2binlabel.pt", {"label2binlabel": targets}),
        *(("pred_slice_with0.pt", changed(slices, place, value)) for place, value in [
            ((0, 0), 1), ((0, 1), 3), ((1, 0), 1), ((2, 1), 0), ((2, 1), 2**62)
        ]),
        ("pred_slice_with0.pt", slices.T),
        *(("valsplit.pkl", split | {key: value}) for key, value in [
            ("(0, 10)", np.array([1])), ("normal", np.array([2, 1])), ("background", np.array([1])),
            ("all", np.arange(4)), ("(0, 10)", [1, 2]), ("(0, 10)", np.array([1.0, 2.0])), ("all", deep),
        ]),
        ("valsplit.pkl", {key: split[key] for key in ("normal", "background", "all")}),
        ("valsplit.pkl", [1]),
        ("mask.pt", np.array([1, 0])),
        ("mask.pt", np.array([0, 2])),
        ("mask.pt", np.array([False, True])),
        ("cls_weight.pt", np.array([1.0, np.nan])),
        ("cls_weight_bf.pt", np.array([1.0, 0.0])),
        ("cls_weight_bours.pt", np.array([1.0], np.float32)),
        ("cls_weight.pt", np.zeros(0)),
        ("bins_cls_weight.pkl", []),
        ("bins_cls_weight.pkl", deep),
        ("bins_cls_weight.pkl", doubled),
        ("bins_cls_weight.pkl", [np.array([0.5, 1.0])]),
        ("class_to_imageid_and_inscount.pt", {}),
        ("class_to_imageid_and_inscount.pt", deep),
        ("class_to_imageid_and_inscount.pt", {"1": entry}),
        ("class_to_imageid_and_inscount.pt", {2: entry}),
        ("class_to_imageid_and_inscount.pt", {1: [entry]}),
        *(("class_to_imageid_and_inscount.pt", {1: entry | {key: value}}) for key, value in [
            ("category_id", 2), ("img_id", [5, 6]), ("img_id", ["5"]), ("img_id", [-5]), ("img_id", doubled),
            ("isntance_count", 0), ("isntance_count", 1.5), ("instance_count", 2), ("image_info_id", [True]),
        ]),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), wrong_contents())
def test_other_content_than_the_name_promises_is_refused(name: str, content: Any, tmp_path: Path) -> None:
    path = tmp_path / name
    if isinstance(content, np.ndarray):
        torch.save(torch.from_numpy(content.copy()), path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(StatisticsError, match="does not match the file's name") as error:
        read_upstream(path)
    assert len(str(error.value)) < 1000


class Attack:
    def __reduce__(self) -> Any:
        return functools.partial(os.system, "touch canary"), ()


@pytest.mark.parametrize("name", [pattern.replace("*", "") for pattern in UPSTREAM_FILES])
def test_a_payload_under_any_of_the_names_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(pickle.dumps({"normal": Attack()}))
    with pytest.raises(StatisticsError, match="partial"):
        read_upstream(name)
    torch.save({"normal": Attack(), "t": torch.zeros(3)}, name)
    with pytest.raises(StatisticsError, match="partial"):
        read_upstream(name)
    Path(name).write_bytes(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    with pytest.raises(StatisticsError, match="does not match the file's name"):
        read_upstream(name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_other_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(tensor_bytes(np.arange(3)))
    with pytest.raises(StatisticsError, match=r"expected: label2binlabel\.pt"):
        read_upstream(tmp_path / "weights.pt")
