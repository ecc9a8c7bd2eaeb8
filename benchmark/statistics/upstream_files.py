"""The intermediate files of the BAGS and SimCal releases, written and read (methods/bags, sections 3 and 7).

In these files label 0 is background and label j + 1 is our category j, which is the category's id in LVIS.
The categories of a group are in the order of the training file.

Files can be read by the releases' own PyTorch (1.1) and NumPy as well as by current ones: tensors in
PyTorch's format before 1.6, pickles of protocol 3, with NumPy's module names before version 2. They are not
written with ``torch.save``, which would write memory addresses into them, so that equal tables have equal
bytes.
"""

import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.statistics.errors import StatisticsError
from benchmark.statistics.groups import GroupTables, members
from benchmark.statistics.unpickling import TORCH_MAGIC, TORCH_PROTOCOL, read_objects

# The releases' names of the groups in `valsplit.pkl`, in order, where they are exceptions to the rule.
_SPLIT_NAMES = {
    (100,): {"[10, 100)": 1, "[1000, ~)": 2},
    (5, 10, 50, 100, 500, 1000, 5000): {
        "(5, 10)": 2,
        "[50, 100)": 4,
        "[500, 1000)": 6,
        "[5000, ~)": 8,
        "(0, 5)": 1,
        "[10, 50)": 3,
        "[100, 500)": 5,
        "[1000, 5000)": 7,
    },
}
NOT_GROUPS = ("normal", "background", "all")
WEIGHT_FILES = {
    "cls_weight.pt": "inverse_count",
    "cls_weight_bf.pt": "class_balanced_with_background",
    "cls_weight_bours.pt": "class_balanced",
}
"""The release's files of class weights, and the table (``CLASS_WEIGHTS``) in each."""
_CLASS_KEYS = {"image_info_id", "img_id", "isntance_count", "category_id"}
_REMEDY = "longtail intermediates --upstream writes valid files"


def background_first(values: NDArray[Any]) -> NDArray[Any]:
    """The releases' order of labels on the last axis, from ours (background last)."""
    return np.roll(values, 1, axis=-1)


def split_names(edges: Sequence[int]) -> dict[str, int]:
    """The group numbers from 1 by the names in ``valsplit.pkl`` of the groups between ``edges``."""
    if tuple(edges) in _SPLIT_NAMES:
        return _SPLIT_NAMES[tuple(edges)]
    inner = [f"[{left}, {right})" for left, right in pairwise(edges)]
    return {name: group for group, name in enumerate([f"(0, {edges[0]})", *inner, f"[{edges[-1]}, ~)"], 1)}


def group_files(tables: GroupTables, edges: Sequence[int]) -> dict[str, bytes]:
    """``label2binlabel.pt``, ``pred_slice_with0.pt`` and ``valsplit.pkl`` as bytes."""
    count = len(tables.group_of_label)
    split = {name: members(tables.targets[:, :-1], group) + 1 for name, group in split_names(edges).items()}
    split |= {
        "normal": np.arange(1, count + 1),
        "background": np.zeros(1, np.int64),
        "all": np.arange(count + 1),
    }
    return {
        "label2binlabel.pt": tensor_bytes(background_first(tables.targets)),
        "pred_slice_with0.pt": tensor_bytes(tables.slices),
        "valsplit.pkl": pickle_bytes(split),
    }


def class_index(
    image_ids: NDArray[np.int64],
    labels: NDArray[np.int64],
    positions: NDArray[np.int64],
    instances: NDArray[np.int64],
    num_classes: int,
) -> dict[int, dict[str, Any]]:
    """The content of ``class_to_imageid_and_inscount.pt``: the images of every class.

    Args:
        image_ids: the annotated images (I,) in the order of the dataset.
        labels: the category of every (category, image) pair (P,), ascending, 0..C-1.
        positions: the pair's image, a position in ``image_ids``.
        instances: the pair's number of annotations.
        num_classes: C.

    Returns:
        For 0 (background, without images) and 1..C the ids of the images, their positions in the list of
        annotated images, and the number of annotations; keys are ordered as in the released file of LVIS.
    """
    bounds = np.searchsorted(labels, np.arange(-1, num_classes + 1))
    totals = np.concatenate([[0], np.cumsum(instances)])
    index = {}
    for class_, (start, end) in enumerate(pairwise(bounds.tolist())):
        index[class_] = {
            "image_info_id": positions[start:end].tolist(),
            "img_id": image_ids[positions[start:end]].tolist(),
            "isntance_count": int(totals[end] - totals[start]),
            "category_id": class_,
        }
    return index


def tensor_bytes(array: NDArray[Any]) -> bytes:
    """A file that every version of ``torch.load`` reads as a tensor with the array's dtype and shape.

    ``array`` is int64 or float64.
    """
    array = np.ascontiguousarray(array)
    machine = {
        "protocol_version": TORCH_PROTOCOL,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    storage = {"int64": "LongStorage", "float64": "DoubleStorage"}[str(array.dtype)]
    steps = tuple(step // array.itemsize for step in array.strides)
    # (("storage", class, "0", "cpu", size, None) as persistent id, 0, shape, strides, False, OrderedDict())
    reference = (
        b"(" + _code("storage") + _named("torch", storage) + _code("0", "cpu", array.size, None) + b"tQ"
    )
    hooks = _named("collections", "OrderedDict") + b")R"
    tensor = _named("torch._utils", "_rebuild_tensor_v2") + b"(" + reference
    tensor += _code(0, array.shape, steps, False) + hooks + b"tR"
    head = b"".join(pickle.dumps(part, 2) for part in (TORCH_MAGIC, TORCH_PROTOCOL, machine))
    values = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return (
        head + b"\x80\x02" + tensor + b"." + pickle.dumps(["0"], 2) + struct.pack("<q", array.size) + values
    )


def pickle_bytes(value: Mapping[str, NDArray[Any]] | Sequence[NDArray[Any]]) -> bytes:
    """A pickle of a dictionary or list of arrays (int64 or float64) that NumPy 1 and 2 can read."""
    if isinstance(value, Mapping):
        items = b"".join(_code(key) + _array_code(array) for key, array in value.items())
        return b"\x80\x03}(" + items + b"u."
    return b"\x80\x03](" + b"".join(_array_code(array) for array in value) + b"e."


def _code(*values: object) -> bytes:
    """The instructions that push plain values, without those that open and close a pickle."""
    return b"".join(pickle.dumps(value, 3)[2:-1] for value in values)


def _named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _array_code(array: NDArray[Any]) -> bytes:
    """The instructions that build an array, as NumPy's ``__reduce__`` gives them."""
    dtype = _named("numpy", "dtype") + _code((array.dtype.str[1:], 0, 1)) + b"R"
    dtype += _code((3, "<", None, None, None, -1, -1, 0)) + b"b"
    empty = _named("numpy.core.multiarray", "_reconstruct") + _named("numpy", "ndarray") + _code((0,), b"b")
    values = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return empty + b"\x87R(" + _code(1, array.shape) + dtype + _code(False, values) + b"tb"


def read_upstream(path: Path | str, num_classes: int | None = None) -> Any:
    """Read a file of the releases by its name, and check that it has the form that the releases use.

    Does not run code in the file (``benchmark.statistics.unpickling``).

    Args:
        path: a file called ``label2binlabel.pt``, ``pred_slice_with0.pt``, ``valsplit.pkl``, ``mask.pt``,
            ``cls_weight*.pt``, ``bins_cls_weight.pkl`` or ``class_to_imageid_and_inscount*.pt``.
        num_classes: C of the annotation vocabulary, if known.

    Returns:
        The result of ``torch.load`` or ``pickle.load``, with tensors as arrays.

    Raises:
        StatisticsError: the name is unknown; content has another type, dtype, shape or range than in the
            releases; tables have another number of classes; or the file would run code.
        FileError: it cannot be read.
    """
    path = Path(path)
    check = next((check for name, check in _CHECKS.items() if path.match(name)), None)
    if check is None:
        raise StatisticsError(
            "not the name of an intermediate file",
            where=path,
            expected=", ".join(_CHECKS),
            remedy="give the file the name that it has in the release",
        )
    content = read_objects(path)
    try:
        found = check(content)
    except _Wrong as wrong:
        raise StatisticsError(
            "the content does not match the file's name",
            where=path,
            found=wrong.found,
            expected=wrong.expected,
            remedy=_REMEDY,
        ) from None
    if num_classes is not None and found not in (None, num_classes):
        raise StatisticsError(
            "the file is for another vocabulary",
            where=path,
            found=f"{found} classes",
            expected=f"the {num_classes} categories of the annotation file",
            remedy="make it from that annotation file: longtail intermediates --upstream",
        )
    return content


class _Wrong(Exception):
    """Content is invalid."""

    def __init__(self, found: object, expected: str) -> None:
        self.found = found
        self.expected = expected


def _array(content: Any, dtype: str, shape: tuple[int | None, ...], what: str) -> NDArray[Any]:
    """The array, if it has this dtype and shape (None: any size from 1 on)."""
    if not isinstance(content, np.ndarray):
        raise _Wrong(f"a {type(content).__name__}", what)
    fits = content.ndim == len(shape) and all(
        size == wanted or (wanted is None and size > 0)
        for size, wanted in zip(content.shape, shape, strict=True)
    )
    if content.dtype != np.dtype(dtype) or not fits:
        raise _Wrong(f"{content.dtype} of shape {content.shape}", what)
    return content


def _check_targets(content: Any) -> int:
    """``label2binlabel.pt``: (B, C + 1) int64."""
    what = "int64 (groups + 1, C + 1): in-bin targets of label 0 (background) and of the classes 1..C"
    targets = _array(content, "int64", (None, None), what)
    count = targets.shape[1] - 1
    if count < 1 or len(targets) < 2 or targets[:, 0].any() or (targets[0, 1:] != 1).any():
        raise _Wrong(f"a first row or column of another form, shape {targets.shape}", what)
    inside = targets[1:] > 0
    sizes = inside.sum(axis=1)
    if (targets < 0).any() or (inside[:, 1:].sum(axis=0) != 1).any():
        raise _Wrong("a class in no group or in several", what)
    if any(
        set(row[row > 0].tolist()) != set(range(1, size + 1))
        for row, size in zip(targets[1:], sizes, strict=True)
    ):
        raise _Wrong("targets of a group that are not 1..n", what)
    return count


def _check_slices(content: Any) -> int:
    """``pred_slice_with0.pt``: (B, 2) int64."""
    what = "int64 (groups + 1, 2): start and length of every bin, one behind the other, the first of length 2"
    slices = _array(content, "int64", (None, 2), what)
    starts, lengths = slices.T
    if (lengths < 1).any() or (lengths > 2**31).any() or lengths[0] != 2 or len(slices) < 2:
        raise _Wrong("a bin of impossible length", what)
    if not np.array_equal(starts, np.cumsum(lengths) - lengths):
        raise _Wrong("bins that leave gaps or overlap", what)
    return int(lengths.sum()) - 1 - len(slices)


def _check_split(content: Any) -> int:
    """``valsplit.pkl``: dictionary of int64 arrays."""
    what = (
        "a dictionary of int64 arrays: the classes of every group, 'normal' 1..C, 'background' 0, 'all' 0..C"
    )
    if type(content) is not dict or not {*NOT_GROUPS} < set(content):
        raise _Wrong(f"a {type(content).__name__} without these keys", what)
    for array in content.values():
        if array is not content["normal"]:
            _array(
                array.reshape(-1) if isinstance(array, np.ndarray) else array, "int64", (len(array),), what
            )
    everything = _array(content["all"], "int64", (None,), what)
    classes = np.arange(len(everything))
    groups = [content[key] for key in content if key not in NOT_GROUPS]
    if (
        not np.array_equal(everything, classes)
        or not np.array_equal(content["normal"], classes[1:])
        or not np.array_equal(content["background"], [0])
        or not np.array_equal(np.sort(np.concatenate(groups)), classes[1:])
    ):
        raise _Wrong("groups that are not a partition of 1..C", what)
    return len(classes) - 1


def _check_mask(content: Any) -> int:
    """``mask.pt``: (C + 1,) int64."""
    what = "int64 (C + 1,) of 0 and 1, 0 for background"
    mask = _array(content, "int64", (None,), what)
    if mask[0] != 0 or not np.isin(mask, (0, 1)).all():
        raise _Wrong("other values", what)
    return len(mask) - 1


def _check_weights(content: Any) -> int:
    """``cls_weight*.pt``: (C + 1,) float64."""
    what = "float64 (C + 1,): finite weights above 0, background first"
    weights = _array(content, "float64", (None,), what)
    if not (np.isfinite(weights) & (weights > 0)).all():
        raise _Wrong("weights that are not finite or not above 0", what)
    return len(weights) - 1


def _check_group_weights(content: Any) -> int:
    """``bins_cls_weight.pkl``: list of float64 arrays."""
    what = "a list of float64 arrays, one for a group: 1 for 'others', then the weights of its classes"
    if type(content) is not list or not content:
        raise _Wrong(f"a {type(content).__name__}", what)
    for weights in content:
        _check_weights(weights)
        if weights[0] != 1:
            raise _Wrong("a weight of 'others' that is not 1", what)
    return sum(map(len, content)) - len(content)


def _check_index(content: Any) -> int:
    """``class_to_imageid_and_inscount*.pt``: dictionary of dictionaries."""
    what = f"a dictionary from 0 or 1 to C of dictionaries with {', '.join(sorted(_CLASS_KEYS))}"
    if type(content) is not dict or not content:
        raise _Wrong(f"a {type(content).__name__}", what)
    classes = sorted(content) if all(type(key) is int for key in content) else []
    if classes not in ([*range(len(content))], [*range(1, len(content) + 1)]):
        raise _Wrong(f"{len(content)} keys that are not 0..C or 1..C", what)
    for class_, entry in content.items():
        if type(entry) is not dict or set(entry) != _CLASS_KEYS or entry["category_id"] != class_:
            raise _Wrong(f"another entry for class {class_}", what)
        ids, positions, count = entry["img_id"], entry["image_info_id"], entry["isntance_count"]
        if not all(type(part) is list and {*map(type, part)} <= {int} for part in (ids, positions)):
            raise _Wrong(f"images of class {class_} that are not lists of whole numbers", what)
        same = len(ids) == len(positions) == len(set(ids)) == len(set(positions))
        if not same or type(count) is not int or count < len(ids) or min(ids + positions, default=0) < 0:
            raise _Wrong(f"images of class {class_} that do not fit their positions or the instances", what)
    return max(classes)


_CHECKS: dict[str, Callable[[Any], int]] = {
    "label2binlabel.pt": _check_targets,
    "pred_slice_with0.pt": _check_slices,
    "valsplit.pkl": _check_split,
    "mask.pt": _check_mask,
    "cls_weight*.pt": _check_weights,
    "bins_cls_weight.pkl": _check_group_weights,
    "class_to_imageid_and_inscount*.pt": _check_index,
}

UPSTREAM_FILES = tuple(_CHECKS)
