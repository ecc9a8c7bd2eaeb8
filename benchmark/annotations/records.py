"""Records of an annotation file, with all type errors; the rest of each record is still read."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from benchmark.annotations.problems import Findings, Problem
from benchmark.annotations.reading import Annotation, Category, Id, Image

T = TypeVar("T", Annotation, Category, Image)

CONSTANT = "\ue000"
"""Marks strings that represent NaN and Infinity, which JSON does not have but Python writes."""

_ELEMENTS: dict[str, Any] = {
    "bbox": float,
    "neg_category_ids": Id,
    "not_exhaustive_category_ids": Id,
}
_CHOICES = {"frequency": "r, c or f", "iscrowd": "0 or 1", "ignore": "0 or 1"}
_WORDS = {"int": "an integer", "float": "a number", "str": "a string", "array": "a list", "null": "null"}
_LONGEST = 80


@dataclass(frozen=True)
class _Fault:
    field: str
    found: str
    expected: str


def read_records(raws: list[Raw], type_: type[T], findings: Findings) -> tuple[list[T], set[int]]:
    """The readable records, the readable parts of the others, and the ids of unreadable ones.

    Errors are added to ``findings``. An id written as a string counts as its number, and an optional field
    with a wrong type as absent, so that one error does not hide others.
    """
    name = type_.__name__.lower()
    decoder = msgspec.json.Decoder(type_)
    records: list[T] = []
    lost: set[int] = set()
    for position, raw in enumerate(raws):
        try:
            records.append(decoder.decode(raw))
        except (msgspec.DecodeError, RecursionError):
            record, id_ = _faulty(raw, type_, name, position, findings)
            if record is not None:
                records.append(record)
            elif id_ is not None:
                lost.add(id_)
    return records, lost


def repeated_ids(records: Sequence[Category] | Sequence[Image]) -> Iterator[Problem]:
    """Ids that occur in several categories or several images."""
    for id_, count in Counter(record.id for record in records).items():
        if count > 1:
            name = type(records[0]).__name__.lower()
            yield Problem(f"{name} id that is not unique", name, id_, "id", f"{count} times", "once")


def shown(value: Any) -> str:
    """A value as JSON, truncated if it is long."""
    if isinstance(value, str) and value.startswith(CONSTANT):
        return value.removeprefix(CONSTANT)
    try:
        text = msgspec.json.encode(value).decode()
    except (OverflowError, RecursionError):  # integers beyond 64 bits
        text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _faulty(
    raw: Raw, type_: type[T], name: str, position: int, findings: Findings
) -> tuple[T | None, int | None]:
    """Add the errors of an unreadable record; returns its readable part, if that is a record, and its id."""
    try:
        content = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        content, faults = None, [_Fault("record", str(error), "JSON")]
    else:
        faults = (
            _faults(content, type_)
            if isinstance(content, dict)
            else [_Fault("record", shown(content), "an object")]
        )
    id_ = content.get("id") if isinstance(content, dict) else None
    known = id_ if isinstance(id_, int) and not isinstance(id_, bool) else None
    place = f"{name}[{position}]" if known is None else name
    for fault in faults:
        field = fault.field.split(".")[0]
        what = f"{name} without {field}" if fault.found == "nothing" else f"{name} with an unusable {field}"
        findings.add_fault(Problem(what, place, known, fault.field, fault.found, fault.expected))
    return (_valid_part(content, type_) if isinstance(content, dict) else None), known


@cache
def _fields(type_: type[Struct]) -> dict[str, tuple[Any, bool]]:
    """Types of all fields, and whether they are required; segmentations are read later."""
    return {
        field.encode_name: (field.type, field.required)
        for field in msgspec.structs.fields(type_)
        if field.type is not Raw
    }


def _faults(content: dict[str, Any], type_: type[Struct]) -> list[_Fault]:
    faults = []
    for field, (expected, required) in _fields(type_).items():
        if field not in content:
            if required:
                faults.append(_Fault(field, "nothing", "this field"))
            continue
        value = content[field]
        message = _refusal(value, expected)
        if message is None:
            continue
        parts = value if isinstance(value, list) and field in _ELEMENTS else []
        of_parts = [
            _Fault(f"{field}.{number}", shown(part), refusal)
            for number, part in enumerate(parts)
            if (refusal := _refusal(part, _ELEMENTS[field])) is not None
        ]
        message = _CHOICES.get(field, message)
        faults += of_parts or [_Fault(field, shown(value), message)]
    return faults


def _refusal(value: Any, type_: Any) -> str | None:
    """Description of the expected value; None if the value has the right type."""
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        text = str(error).partition(" - at ")[0].removeprefix("Expected ").split(", got ")[0]
        return re.sub(
            r"`([^`]*)`",
            lambda found: " or ".join(_WORDS.get(word, word) for word in found[1].split(" | ")),
            text,
        )
    return None


def _valid_part(content: dict[str, Any], type_: type[T]) -> T | None:
    """The record without its invalid fields; None if a required field is invalid."""
    kept = {"segmentation": content["segmentation"]} if "segmentation" in content else {}
    for field, (expected, required) in _fields(type_).items():
        if field not in content:
            continue
        value = content[field]
        if _refusal(value, expected) is not None:
            try:
                value = msgspec.convert(value, expected, strict=False)
            except msgspec.ValidationError:
                if required:
                    return None
                continue
        kept[field] = value
    try:
        return msgspec.json.decode(msgspec.json.encode(kept), type=type_)
    except (msgspec.DecodeError, OverflowError, RecursionError):
        return None
