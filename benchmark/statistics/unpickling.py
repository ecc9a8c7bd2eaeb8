"""Reads untrusted pickles and PyTorch files as data.

``pickle.load`` and ``torch.load`` can run code from the file. This module interprets the opcodes itself and
never calls or imports a name from the file: it compares names with the few that NumPy arrays and PyTorch
tensors need, and builds these as views of the file's bytes. Therefore no file can claim more memory than it
has bytes.

An ``Unpickler`` with an allow list in ``find_class`` is not enough. A file may put an object at any index of
the memo, which allocates 16 bytes for every lower index (5 bytes of file, gigabytes of memory). It may create
any number of empty containers, 56 bytes for each byte of file. Its BUILD passes values of the file to NumPy's
``__setstate__``, which can make a dtype of objects from them. ``torch.load(weights_only=True)`` does not read
pickled arrays, and enlarges a storage to the size that a tensor claims; it is used for checkpoints
(``benchmark.detectors.checkpoints``).

Supported are plain pickles of protocols 2 to 5, including those of Python 2, and both formats of
``torch.save``: the zip archive since PyTorch 1.6 and the sequence of pickles before it.
"""

import io
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from benchmark.errors import FileError
from benchmark.files import read_bytes
from benchmark.statistics.errors import StatisticsError

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_PROTOCOL = 1001
STORAGES = {
    "BoolStorage": "?",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
}

# The index of LVIS v1 has 4 MB and 4,000 containers.
LARGEST_FILE = 64 * 2**20
MOST_CONTAINERS = 1_000_000

_PLAIN = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINSTRING", "SHORT_BINSTRING"),  # text or bytes of Python 2, read as Latin-1
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_NAMES = {
    *(("numpy", name) for name in ("ndarray", "dtype")),
    *(("numpy.core.multiarray", name) for name in ("_reconstruct", "scalar")),
    ("numpy.core.numeric", "_frombuffer"),
    *(("torch._utils", name) for name in ("_rebuild_tensor", "_rebuild_tensor_v2")),
    *(("torch", name) for name in STORAGES),
    ("_codecs", "encode"),
    ("__builtin__", "bytes"),
    ("collections", "OrderedDict"),
}
_DTYPE = re.compile(r"[<>|=]?[biuf][1248]")

Storage = Callable[[np.dtype[Any], str, int], NDArray[Any]]


class _Name(NamedTuple):
    """A class or function named in the file, one of ``_NAMES``. It is compared, never imported."""

    module: str
    name: str


class _Unfinished:
    """An array (``dtype`` None) or a dtype before its BUILD, and its places in the memo."""

    def __init__(self, dtype: np.dtype[Any] | None) -> None:
        self.dtype = dtype
        self.places: list[int] = []


class _Refused(Exception):
    """The file is refused; the message states what is wrong with it."""


_MARK = object()


def read_objects(path: Path | str, largest: int = LARGEST_FILE) -> Any:
    """Read arrays and plain values from a pickle or a PyTorch file, without running code from it.

    Tensors are returned as arrays. Arrays are read-only views of the file's bytes. Keys of dictionaries are
    str or int. The nesting depth is not limited: do not walk through the result recursively without a limit.

    Raises:
        StatisticsError: the file contains anything but arrays, tensors and plain values, announces more data
            than it has, is damaged, or is larger than ``largest`` bytes.
        FileError: the file cannot be read.
    """
    path = Path(path)
    try:
        size = path.stat().st_size if path.is_file() else 0
        if size > largest:
            raise _Refused(f"{size} bytes, more than {largest}")
        if path.is_char_device() or path.is_fifo():
            raise _Refused("a device or a pipe")
        data = read_bytes(path)
        return _from_zip(data) if data.startswith(b"PK\x03\x04") else _from_pickles(data)
    except _Refused as refusal:
        found = str(refusal)
    except FileError:
        raise
    except Exception as error:  # a malicious file may cause any error
        found = f"a damaged file ({type(error).__name__}: {str(error)[:200]})"
    finally:
        _latin1.cache_clear()
    raise StatisticsError(
        "the file cannot be read as data",
        where=path,
        found=found,
        expected="a pickle or PyTorch file that contains only arrays, tensors and plain values, and no code",
        remedy="do not open it with pickle or torch; longtail intermediates --upstream writes a valid one",
    )


def _from_zip(data: bytes) -> Any:
    """``torch.save`` since PyTorch 1.6: uncompressed ``NAME/data.pkl`` and storages ``NAME/data/KEY``."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > len(data):
            raise _Refused("an archive that unpacks to more than its own size")
        names = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(names) != 1:
            raise _Refused(f"an archive with {len(names)} files NAME/data.pkl")
        folder = names[0].removesuffix("/data.pkl")
        if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder") != b"little":
            raise _Refused("a tensor of a big-endian machine")
        loaded: dict[str, bytes] = {}

        def storage(dtype: np.dtype[Any], key: str, count: int) -> NDArray[Any]:
            if key not in loaded:
                loaded[key] = archive.read(f"{folder}/data/{key}")
            return _view(loaded[key], dtype, count)

        return _interpret(io.BytesIO(archive.read(names[0])), storage)


def _from_pickles(data: bytes) -> Any:
    """A single pickle, or ``torch.save`` before PyTorch 1.6: five pickles, then the storages."""
    stream = io.BytesIO(data)
    first = _interpret(stream, _no_storage)
    if not (isinstance(first, int) and first == TORCH_MAGIC):
        if stream.tell() != len(data):
            raise _Refused(f"{len(data) - stream.tell()} bytes after the end of the pickle")
        return first
    protocol, machine = _interpret(stream, _no_storage), _interpret(stream, _no_storage)
    if (
        protocol != TORCH_PROTOCOL
        or not isinstance(machine, dict)
        or machine.get("little_endian") is not True
    ):
        raise _Refused("an unknown version of PyTorch's format, or a tensor of a big-endian machine")
    start = stream.tell()
    announced: dict[str, tuple[np.dtype[Any], int]] = {}

    def announce(dtype: np.dtype[Any], key: str, count: int) -> NDArray[Any]:
        """Note the size of a storage; the storages follow after the pickle that describes them."""
        if count * dtype.itemsize > len(data):
            raise _Refused(f"a storage of {count} elements in a file of {len(data)} bytes")
        announced[key] = (dtype, count)
        return np.broadcast_to(np.zeros((), dtype), (count,))

    _interpret(stream, announce)
    keys = _interpret(stream, _no_storage)
    if not isinstance(keys, list) or len(keys) != len(announced):
        raise _Refused("storages that are not listed")
    loaded: dict[str, bytes] = {}
    for key in keys:
        dtype, count = announced[key]
        if struct.unpack("<q", stream.read(8)) != (count,):
            raise _Refused("a storage of another size than announced")
        loaded[key] = stream.read(count * dtype.itemsize)
    stream.seek(start)
    return _interpret(stream, lambda dtype, key, count: _view(loaded[key], dtype, count))


def _no_storage(dtype: np.dtype[Any], key: str, count: int) -> NoReturn:
    raise _Refused("a tensor outside of a PyTorch file")


def _view(data: bytes, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    if len(data) != count * dtype.itemsize:
        raise _Refused(f"{count} elements of {dtype} announced, {len(data)} bytes there")
    return np.frombuffer(data, dtype)


def _interpret(stream: io.BytesIO, storage: Storage) -> Any:
    """Interpret the pickle at the stream's position; the stream is then at its end."""
    return _Interpreter(storage).run(stream)


class _Interpreter:
    """Interpreter of one pickle with its stack and memo; a method for each instruction."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._containers = 0

    def run(self, stream: io.BytesIO) -> Any:
        """Interpret the pickle and return its object."""
        argument: Any
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name in _PLAIN:
                self._push_plain(name, argument)
            elif name in _INSTRUCTIONS:
                _INSTRUCTIONS[name](self, argument)
            elif name not in ("PROTO", "FRAME", "STOP"):
                raise _Refused(f"the pickle instruction {name}")
            self._containers += name in _COUNTED
            if self._containers > MOST_CONTAINERS:
                raise _Refused(f"more than {MOST_CONTAINERS} containers")
        (value,) = self._stack
        _only_data([value])
        return value

    def push(self, value: Any) -> None:
        """Push a value onto the stack."""
        self._stack.append(value)

    def _push_plain(self, name: str, argument: Any) -> None:
        if type(argument) is int and argument.bit_length() > 128:
            raise _Refused(f"a whole number of {argument.bit_length()} bits")
        self.push(bytes(argument) if name == "BYTEARRAY8" else argument)

    def _since_mark(self) -> list[Any]:
        for position in range(len(self._stack) - 1, -1, -1):
            if self._stack[position] is _MARK:
                items = self._stack[position + 1 :]
                del self._stack[position:]
                return items
        raise _Refused("a damaged pickle (no mark)")

    def recall(self, place: int) -> None:
        """BINGET: push an object from the memo."""
        self.push(self._memo[place])

    def memorise(self, place: int | None) -> None:
        """BINPUT, or MEMOIZE, which uses the next free place."""
        place = len(self._memo) if place is None else place
        self._memo[place] = self._stack[-1]
        if isinstance(self._stack[-1], _Unfinished):
            self._stack[-1].places.append(place)

    def append(self, _: Any) -> None:
        """APPEND: append the last value to the list before it."""
        self._extend([self._stack.pop()])

    def appends(self, _: Any) -> None:
        """APPENDS: append all values since the mark."""
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        _of_type(self._stack[-1], list).extend(_only_data(items))

    def set_item(self, _: Any) -> None:
        """SETITEM: set one item of the dictionary before key and value."""
        self._update([self._stack.pop(-2), self._stack.pop()])

    def set_items(self, _: Any) -> None:
        """SETITEMS: set all items since the mark."""
        self._update(self._since_mark())

    def _update(self, items: list[Any]) -> None:
        keys = items[::2]
        if any(type(key) is not str and (type(key) is not int or abs(key) >= 2**63) for key in keys):
            raise _Refused("a dictionary with keys other than text and whole numbers")
        _of_type(self._stack[-1], dict).update(zip(keys, _only_data(items[1::2]), strict=True))

    def tuple_since_mark(self, _: Any) -> None:
        """TUPLE."""
        self.push(tuple(self._since_mark()))

    def tuple_of(self, length: int) -> None:
        """TUPLE1 to TUPLE3."""
        self._stack[-length:] = [tuple(self._stack[-length:])]

    def name(self, argument: str) -> None:
        """GLOBAL: push a name; module and name are in the argument."""
        self.push(_named(*argument.split(" ", 1)))

    def name_on_stack(self, _: Any) -> None:
        """STACK_GLOBAL: push a name; module and name are on the stack."""
        self._stack[-2:] = [_named(_of_type(self._stack[-2], str), _of_type(self._stack[-1], str))]

    def reduce(self, _: Any) -> None:
        """REDUCE: push what the named function would return."""
        arguments = _of_type(self._stack.pop(), tuple)
        self._stack[-1] = _called(_of_type(self._stack[-1], _Name), arguments)

    def build(self, _: Any) -> None:
        """BUILD: set the state of an array or a dtype, on the stack and in the memo."""
        state = _of_type(self._stack.pop(), tuple)
        unfinished = _of_type(self._stack[-1], _Unfinished)
        self._stack[-1] = _finished(unfinished, state)
        self._memo.update(dict.fromkeys(unfinished.places, self._stack[-1]))

    def persistent(self, _: Any) -> None:
        """BINPERSID: push a storage of a PyTorch file."""
        self._stack[-1] = _stored(self._stack[-1], self._storage)


_INSTRUCTIONS: dict[str, Callable[[_Interpreter, Any], None]] = {
    "MARK": lambda self, _: self.push(_MARK),
    "NONE": lambda self, _: self.push(None),
    "NEWTRUE": lambda self, _: self.push(True),
    "NEWFALSE": lambda self, _: self.push(False),
    "EMPTY_DICT": lambda self, _: self.push({}),
    "EMPTY_LIST": lambda self, _: self.push([]),
    "EMPTY_TUPLE": lambda self, _: self.push(()),
    "TUPLE": _Interpreter.tuple_since_mark,
    "TUPLE1": lambda self, _: self.tuple_of(1),
    "TUPLE2": lambda self, _: self.tuple_of(2),
    "TUPLE3": lambda self, _: self.tuple_of(3),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Interpreter.recall),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Interpreter.memorise),
    "APPEND": _Interpreter.append,
    "APPENDS": _Interpreter.appends,
    "SETITEM": _Interpreter.set_item,
    "SETITEMS": _Interpreter.set_items,
    "GLOBAL": _Interpreter.name,
    "STACK_GLOBAL": _Interpreter.name_on_stack,
    "REDUCE": _Interpreter.reduce,
    "BUILD": _Interpreter.build,
    "BINPERSID": _Interpreter.persistent,
}
_COUNTED = {
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("MEMOIZE", "LONG_BINPUT"),
}
"""Instructions that allocate more memory than they have bytes."""


def _named(module: str, name: str) -> _Name:
    found = _Name(module.replace("numpy._core.", "numpy.core."), name)  # NumPy 2 renamed it
    if found not in _NAMES:
        raise _Refused(f"an instruction to import {f'{module}.{name}'[:100]!r}")
    return found


def _only_data(items: list[Any]) -> list[Any]:
    if not {_Name, _Unfinished, object}.isdisjoint(map(type, items)):
        raise _Refused("a class, a function or an unfinished array in the place of data")
    return items


def _of_type(value: Any, type_: type) -> Any:
    if type(value) is not type_:
        raise _Refused(f"a {type(value).__name__.strip('_')} in the place of a {type_.__name__.strip('_')}")
    return value


def _called(function: _Name, arguments: tuple[Any, ...]) -> Any:
    """What the named function would return, for the few functions that make arrays and tensors."""
    match function:
        case ("numpy.core.multiarray", "_reconstruct"):
            if arguments[0] != ("numpy", "ndarray"):
                raise _Refused("an array of a subclass")
            return _Unfinished(None)
        case ("numpy", "dtype"):
            code = arguments[0]
            if type(code) is not str or not _DTYPE.fullmatch(code):
                raise _Refused("an array of something else than numbers")
            return _Unfinished(np.dtype(code))
        case ("numpy.core.numeric", "_frombuffer"):
            data, dtype, shape, order = arguments
            return _array(data, dtype, shape, order == "F")
        case ("numpy.core.multiarray", "scalar"):
            dtype, data = arguments
            return _array(data, dtype, (), False).item()
        case ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor"):
            return _tensor(*arguments[:4])
        case ("_codecs", "encode"):  # bytes in protocol 2
            text, encoding = arguments
            if encoding != "latin1":
                raise _Refused("text in an unexpected encoding")
            return _latin1(_of_type(text, str))
        case ("__builtin__", "bytes") if not arguments:
            return b""
        case ("collections", "OrderedDict") if not arguments:
            return {}
    raise _Refused(f"an instruction to call {function.module}.{function.name}")


def _finished(unfinished: _Unfinished, state: tuple[Any, ...]) -> Any:
    """What ``__setstate__`` of an array or a dtype would return."""
    if unfinished.dtype is None:
        _, shape, dtype, fortran, data = state
        return _array(data, dtype, shape, fortran is True)
    if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
        raise _Refused("an array of something else than numbers")
    return unfinished.dtype.newbyteorder(state[1])


def _array(data: Any, dtype: Any, shape: Any, fortran: bool) -> NDArray[Any]:
    if not isinstance(dtype, np.dtype):
        raise _Refused("an array of something else than numbers")
    count = _product(shape)
    if type(data) is str:  # bytes of Python 2
        data = _latin1(data)
    return _view(_of_type(data, bytes), dtype, count).reshape(shape, order="F" if fortran else "C")


@cache
def _latin1(text: str) -> bytes:
    """The bytes of a text; cached, because a file may use one text for many arrays."""
    return text.encode("latin1")


def _tensor(values: Any, offset: Any, shape: Any, strides: Any) -> NDArray[Any]:
    """A view of a storage (numel,); refused if it has more elements than the storage or exceeds it."""
    count = _product(shape)
    _product(strides)
    if type(values) is not np.ndarray or type(offset) is not int or len(strides) != len(shape):
        raise _Refused("a tensor without a valid storage, offset, shape and strides")
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if offset < 0 or count > values.size or (count and last >= values.size):
        raise _Refused(f"a tensor of {count} elements in a storage of {values.size}")
    steps = [step * values.strides[0] for step in strides]
    return as_strided(values[offset:] if count else values[:0], shape, steps, writeable=False)


def _product(shape: Any) -> int:
    """The number of elements of a shape."""
    if type(shape) is not tuple or len(shape) > 8 or any(type(n) is not int or n < 0 for n in shape):
        raise _Refused("a shape that is not a tuple of at most eight whole numbers >= 0")
    product = 1
    for size in shape:
        product *= size
    return product


def _stored(identifier: Any, storage: Storage) -> NDArray[Any]:
    """The storage of a persistent id ("storage", class, key, device, elements[, view])."""
    kind, class_, key, _, count = _of_type(identifier, tuple)[:5]
    if kind != "storage" or type(class_) is not _Name or class_.module != "torch":
        raise _Refused("a reference to something that is not a storage")
    if class_.name not in STORAGES:
        raise _Refused(f"a storage of class {class_}")
    if type(count) is not int or count < 0 or any(part is not None for part in identifier[5:]):
        raise _Refused("a storage without a valid size")
    return storage(np.dtype(STORAGES[class_.name]), _of_type(key, str), count)
