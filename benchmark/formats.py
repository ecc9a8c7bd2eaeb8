"""Recognition of wrong file formats: an archive, a web page, text in another encoding..."""

import re
from typing import NamedTuple

HEAD = 4096
"""Number of bytes at the beginning of a file that identify its format."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""The byte order mark that some editors write before UTF-8 text."""


class Foreign(NamedTuple):
    """Description of a file's format, and what to do about it."""

    name: str
    remedy: str


_UNPACK = "unpack it and give the file in it"
_OTHER = "give the file that is asked for"
_AGAIN = "fetch the file again, e.g. with curl -L, and look at it before use"
_SIGNATURES: tuple[tuple[tuple[bytes, ...], Foreign], ...] = (
    ((b"\x1f\x8b",), Foreign("a gzip archive", f"{_UNPACK}: gunzip")),
    ((b"PK\x03\x04",), Foreign("a zip archive", f"{_UNPACK}: unzip")),
    ((b"BZh",), Foreign("a bzip2 archive", f"{_UNPACK}: bunzip2")),
    ((b"\xfd7zXZ\0",), Foreign("an xz archive", f"{_UNPACK}: unxz")),
    ((b"\x28\xb5\x2f\xfd",), Foreign("a zstd archive", f"{_UNPACK}: unzstd")),
    ((b"7z\xbc\xaf\x27\x1c",), Foreign("a 7z archive", _UNPACK)),
    ((b"PAR1",), Foreign("a Parquet file", _OTHER)),
    (
        tuple(bytes([0x80, version]) for version in range(2, 6)),
        Foreign("a Python pickle", "convert it on a machine where it may be trusted; it is not opened here"),
    ),
    ((b"\xff\xd8\xff",), Foreign("a JPEG image", _OTHER)),
    ((b"\x89PNG",), Foreign("a PNG image", _OTHER)),
    ((b"%PDF",), Foreign("a PDF document", _OTHER)),
    (
        (b"version https://git-lfs",),
        Foreign("a placeholder of Git LFS", "fetch the file itself: git lfs pull"),
    ),
)
_ANNEX = Foreign("a placeholder of git-annex", "fetch the file itself: git annex get")
_PAGE = Foreign("a web page, such as a log-in or an error page", _AGAIN)
_ZEROS = Foreign("nothing but zero bytes, as after an interrupted transfer", _AGAIN)
_TAR = Foreign("a tar archive", f"{_UNPACK}: tar xf")


def foreign_format(head: bytes) -> Foreign | None:
    """The format of a file from its first ``HEAD`` bytes; None if it is not recognised."""
    for signatures, foreign in _SIGNATURES:
        if head.startswith(signatures):
            return foreign
    if head and not head.strip(b"\0"):
        return _ZEROS
    for encoding, marks in (
        ("UTF-32", (b"\xff\xfe\0\0", b"\0\0\xfe\xff")),
        ("UTF-16", (b"\xff\xfe", b"\xfe\xff")),
    ):
        if head.startswith(marks):
            return _encoded(encoding)
    if re.match(rb"\0[\[{\s]|[\[{\s]\0", head):
        return _encoded("UTF-16")
    if head[257:262] == b"ustar":
        return _TAR
    start = head.removeprefix(BYTE_ORDER_MARK).lstrip()[:200].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return _PAGE
    return _ANNEX if re.match(rb"(?:\.\./)*(?:\.git)?/annex/objects/", start) else None


def _encoded(encoding: str) -> Foreign:
    return Foreign(f"text in {encoding}", f"save it as UTF-8: iconv -f {encoding} -t UTF-8 FILE > NEW")
