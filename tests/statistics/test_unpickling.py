"""Untrusted files are read as data: arrays and tensors are read correctly, and no code is run."""

import builtins
import collections
import functools
import io
import os
import pickle
import struct
import subprocess
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import FileError
from benchmark.statistics import StatisticsError
from benchmark.statistics.unpickling import LARGEST_FILE, read_objects

PROTOCOLS = range(2, 6)
ARRAYS = [
    np.arange(10).reshape(2, 5),
    np.arange(4) / 3,
    np.arange(6, dtype=np.float32).reshape(2, 3).T,
    np.array([[True], [False]]),
    np.arange(3).astype(">i4"),
    np.zeros((0, 3)),
    np.array(7),
]


class Call:
    """When pickled, asks the reader to call ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.asked = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.asked


def same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and bool((left == right).all())
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return type(left) is type(right) and bool(left == right)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refusal(path: Path, data: bytes) -> str:
    with pytest.raises(StatisticsError) as error:
        read_objects(written(path, data))
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pickles_hold_what_was_put_in(protocol: int, tmp_path: Path) -> None:
    shared = np.arange(3)
    plain = [
        None,
        True,
        False,
        0,
        -1,
        255,
        2**40,
        -(2**70),
        1.5,
        "",
        "ü" * 300,
        b"",
        b"\xff\n",
        (),
        (1,),
        [[]],
    ]
    content = {"plain": plain, 7: ARRAYS, "twice": [shared, shared], "deep": {"a": {"b": [(1, 2, 3, 4)]}}}
    assert same(content, read_objects(written(tmp_path / "c.pkl", pickle.dumps(content, protocol))))
    scalars = [np.int64(3), np.float64(0.5)]
    assert read_objects(written(tmp_path / "s.pkl", pickle.dumps(scalars, protocol))) == [3, 0.5]


def test_pickles_of_python_2_hold_bytes_as_text(tmp_path: Path) -> None:
    values = np.array([[1.5, -2e-7, 3]], dtype="<f4")
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01K\x03\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    )
    data = b"\x80\x02}U\x07conv1_w" + array + b"T\x0c\x00\x00\x00" + values.tobytes() + b"tbs."
    expected = {"conv1_w": values}
    assert same(expected, pickle.loads(data, encoding="latin1"))
    assert same(expected, read_objects(written(tmp_path / "R-50.pkl", data)))


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_both_forms_of_torch_save(zipped: bool, tmp_path: Path) -> None:
    tensor = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    whole = torch.arange(5)
    content = {
        "whole": whole,
        "transposed": tensor.T,
        "part": tensor[1:, 2],
        "repeated": tensor[0].expand(2, 6),
        "scalar": torch.tensor(3, dtype=torch.int32),
        "empty": torch.zeros(0, 2),
        "plain": [1, "a", whole],
    }
    path = tmp_path / "c.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    expected = {key: value.numpy() for key, value in content.items() if isinstance(value, torch.Tensor)}
    assert same(expected | {"plain": [1, "a", whole.numpy()]}, read_objects(path))
    torch.save(whole, path, _use_new_zipfile_serialization=zipped)
    assert same(whole.numpy(), read_objects(path))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (lambda canary: Call(os.system, f"touch {canary}"), "system"),
        (lambda canary: Call(builtins.eval, f"open({str(canary)!r}, 'w')"), "eval"),
        (lambda canary: Call(subprocess.check_call, ["touch", str(canary)]), "check_call"),
        (lambda canary: functools.partial(os.system, f"touch {canary}"), "partial"),
        (lambda canary: [1, {"a": (2, Call(Call, Call(os.system, f"touch {canary}")))}], "Call"),
        (lambda canary: Call(getattr, "a", Call(os.system, f"touch {canary}")), "getattr"),
        (lambda canary: Call(np.load, str(canary)), "numpy"),
        (lambda canary: Call(torch.load, str(canary)), "torch"),
        (lambda canary: np.array([Call(os.system, f"touch {canary}")], dtype=object), "numbers"),
        (lambda canary: os.system, "system"),
        (lambda canary: Path(canary), "pathlib"),
        (lambda canary: {1, 2}, ""),
        (lambda canary: collections.OrderedDict(a=Call(os.system, f"touch {canary}")), ""),
    ],
)
@pytest.mark.parametrize("form", ["pickle", "zip", "legacy"])
def test_payloads_are_refused_and_not_run(
    attack: Callable[[Path], Any], named: str, form: str, protocol: int, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    stream = io.BytesIO()
    if form == "pickle":
        pickle.dump(attack(canary), stream, protocol)
    else:
        torch.save(
            [torch.zeros(2), attack(canary)],
            stream,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=form == "zip",
        )
    message = refusal(tmp_path / "mask.pt", stream.getvalue())
    assert named in message
    assert "remedy" in message
    assert not canary.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"(S'touch canary'\nios\nsystem\n.",  # INST, protocol 0
        b"cos\nsystem\n(S'touch canary'\ntR.",
        b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x00ao.",  # OBJ
        b"\x80\x02cos\nsystem\n)\x81.",  # NEWOBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93)R.",
        b"\x80\x02\x82\x01.",  # EXT1: a registered class
        b"\x80\x02Pname\n.",  # a persistent id in a plain pickle
        b"\x80\x02X\x01\x00\x00\x00aQ.",
        b"\x80\x02]}b.",  # BUILD on a list
        b"\x80\x02cnumpy\nndarray\n}b.",  # BUILD on a class: it would set attributes
        b"\x80\x02cnumpy\nndarray\n.",
        b"\x80\x02](cnumpy\nndarray\ne.",
        b"\x80\x02)R.",
        b"\x80\x02h\x05.",  # a memo that is not there
        b"\x80\x02e.",
        b"\x80\x02u.",
        b"\x80\x02",
        b"\x80\x02].]",
        b"",
    ],
)
def test_hand_made_instructions_are_refused(code: bytes, tmp_path: Path) -> None:
    refusal(tmp_path / "mask.pt", code)


def array_of(shape: bytes, data: bytes = b"C\x08" + bytes(8), dtype: bytes = b"i8") -> bytes:
    """A pickle of an int64 array with any shape and bytes."""
    code = b"cnumpy\ndtype\nX" + struct.pack("<I", len(dtype)) + dtype + b"K\x00K\x01\x87R"
    code += b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    start = b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return start + b"(K\x01" + shape + code + b"\x89" + data + b"tb."


def tensor_of(count: bytes, offset: bytes, shape: bytes, strides: bytes) -> bytes:
    """``data.pkl`` of an archive: a tensor of the storage "0" with any numbers."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nLongStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    storage += count + b"tQ"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides + b"\x89NtR."


def archive(content: bytes, storage: bytes = bytes(8), compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/data/0", storage)
    return stream.getvalue()


HUGE = b"\x8a\x06" + (10**12).to_bytes(6, "little")  # LONG1
ONE, TWO, ZERO = b"K\x01", b"K\x02", b"K\x00"


def test_the_hand_made_parts_are_sound_where_their_numbers_are(tmp_path: Path) -> None:
    assert same(np.zeros(1, np.int64), read_objects(written(tmp_path / "a", array_of(ONE + b"\x85"))))
    data = archive(tensor_of(ONE, ZERO, ONE + b"\x85", ONE + b"\x85"))
    assert same(np.zeros(1, np.int64), read_objects(written(tmp_path / "b", data)))


@pytest.mark.parametrize(
    "data",
    [
        array_of(HUGE + b"\x85"),
        array_of(HUGE + HUGE + b"\x86"),
        array_of(b"J\xff\xff\xff\xff\x85"),  # -1
        array_of(ONE + b"\x85", dtype=b"O8"),
        array_of(ONE + b"\x85", dtype=b"V9"),
        array_of(ONE + b"\x85", dtype=b"i8,i8"),
        array_of(b"(" + ONE * 70 + b"t"),
        b"\x80\x04\x8e" + (10**12).to_bytes(8, "little") + b"ab.",  # BINBYTES8
        b"\x80\x05\x96" + (10**12).to_bytes(8, "little") + b"ab.",  # BYTEARRAY8
        b"\x80\x04\x8d" + (2**63).to_bytes(8, "little") + b"ab.",  # BINUNICODE8
        b"\x80\x04\x95" + (10**12).to_bytes(8, "little") + b"B\xff\xff\xff\xff.",  # FRAME, BINBYTES
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # LONG4
        b"\x80\x02\x8b" + (10**6).to_bytes(4, "little") + b"\x7f" * 10**6 + b".",
        archive(tensor_of(HUGE, ZERO, HUGE + b"\x85", ONE + b"\x85")),
        archive(tensor_of(ONE, ZERO, HUGE + b"\x85", ZERO + b"\x85")),  # one element repeated
        archive(tensor_of(ONE, ONE, ONE + b"\x85", ONE + b"\x85")),  # behind the storage
        archive(tensor_of(ONE, b"J\xff\xff\xff\xff", ONE + b"\x85", ONE + b"\x85")),  # before it
        archive(tensor_of(TWO, ZERO, TWO + b"\x85", TWO + b"\x85"), bytes(16)),
        archive(tensor_of(TWO, ZERO, TWO + b"\x85", HUGE + b"\x85"), bytes(16)),
        archive(tensor_of(ONE, ZERO, b"X\x01\x00\x00\x00a", ONE + b"\x85")),
        archive(tensor_of(ONE, ZERO, ONE + b"\x85", ONE + b"\x85"), b""),
        archive(b"\x80\x02N." + bytes(10**7), compression=zipfile.ZIP_DEFLATED),
        archive(b"\x80\x02N.", bytes(10**8), zipfile.ZIP_DEFLATED),
        archive(b"\x80\x02N.")[:-30],
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_claims_beyond_the_file_are_refused_at_no_cost(data: bytes, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        refusal(tmp_path / "mask.pt", data)
        assert tracemalloc.get_traced_memory()[1] < 5 * len(data) + 2**20
    finally:
        tracemalloc.stop()


def test_many_arrays_of_one_text_share_its_bytes(tmp_path: Path) -> None:
    size = 2**20
    text = b"T" + struct.pack("<i", size) + bytes(size) + b"q\x00"
    dtype = b"cnumpy\ndtype\nU\x02i1K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01|NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tbq\x01"
    shape = b"J" + struct.pack("<i", size) + b"\x85"
    array = b"cnumpy.core.numeric\n_frombuffer\n(h\x00h\x01" + shape + b"U\x01CtR"
    path = written(tmp_path / "a", b"\x80\x02](" + text + dtype + array * 200 + b"e.")
    tracemalloc.start()
    try:
        arrays = read_objects(path)[2:]
        assert tracemalloc.get_traced_memory()[1] < 6 * size
    finally:
        tracemalloc.stop()
    assert len(arrays) == 200
    assert all(array.shape == (size,) for array in arrays)


def test_a_place_in_the_memo_costs_what_it_holds(tmp_path: Path) -> None:
    far = b"\x80\x02Nr\xff\xff\xff\xff."
    tracemalloc.start()
    try:
        assert read_objects(written(tmp_path / "a", far)) is None
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_storage_of_the_old_form_cannot_claim_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mask.pt"
    torch.save(torch.arange(200), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    claims = data.replace(b"K\xc8N", HUGE + b"N")
    assert claims != data
    assert "1000000000000 elements" in refusal(path, claims)
    refusal(path, data[:-8])
    refusal(path, data.replace(struct.pack("<q", 200), struct.pack("<q", 10**12)))


@pytest.mark.slow
def test_nesting_and_references_cost_nothing(tmp_path: Path) -> None:
    deep = b"\x80\x02" + b"(" * 3 + b"]" * 100_000 + b"a" * 99_999
    refusal(tmp_path / "a", deep + b".")
    nested = read_objects(written(tmp_path / "b", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."))
    assert isinstance(nested, list)
    doubled = b"\x80\x02)" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(1, 100))
    assert isinstance(read_objects(written(tmp_path / "c", doubled + b".")), tuple)
    as_key = b"\x80\x02})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(1, 100)) + b"Ns."
    assert "keys" in refusal(tmp_path / "d", as_key)  # its hash would take 2^99 steps
    assert "containers" in refusal(tmp_path / "e", b"\x80\x02(" + b"]" * 1_000_001 + b"t.")


def test_a_file_of_any_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mask.pt"
    with path.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(StatisticsError, match="more than"):
        read_objects(path)
    path.unlink()
    with pytest.raises(FileError, match=r"mask\.pt"):
        read_objects(path)
    os.mkfifo(path)
    with pytest.raises(StatisticsError, match="pipe"):
        read_objects(path)


def sound_files() -> list[bytes]:
    content = {"a": np.arange(5), "b": [1, 2.5, "x", (None, True)], 3: np.ones((2, 2))}
    files = [pickle.dumps(content, protocol) for protocol in PROTOCOLS]
    for zipped in (True, False):
        stream = io.BytesIO()
        torch.save({"t": torch.arange(6).reshape(2, 3)}, stream, _use_new_zipfile_serialization=zipped)
        files.append(stream.getvalue())
    return files


@pytest.mark.parametrize("number", range(6))
def test_cut_files_are_refused(number: int, tmp_path: Path) -> None:
    data = sound_files()[number]
    read_objects(written(tmp_path / "a", data))
    for end in range(0, len(data), max(1, len(data) // 150)):
        refusal(tmp_path / "a", data[:end])


@given(st.data())
@settings(max_examples=400)
def test_damaged_files_give_data_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(SOUND)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = written(tmp_path_factory.getbasetemp() / "damaged", bytes(content))
    with suppress(StatisticsError):
        read_objects(path)


SOUND = sound_files()
