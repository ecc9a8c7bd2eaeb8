"""Files of a wrong format are recognised, and valid files are not."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import pytest

from benchmark.formats import HEAD, foreign_format

TEXT = json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "café"}]})


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("file.json", TEXT)
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("file.json")
        member.size = len(TEXT.encode())
        archive.addfile(member, io.BytesIO(TEXT.encode()))
    return stream.getvalue()


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
FOREIGN = {
    "gzip": (gzip.compress(TEXT.encode()), "gunzip"),
    "zip": (zipped(), "unzip"),
    "bzip2": (bz2.compress(TEXT.encode()), "bunzip2"),
    "xz": (lzma.compress(TEXT.encode()), "unxz"),
    "tar": (tarred(), "tar xf"),
    "UTF-16": (TEXT.encode("utf-16"), "iconv -f UTF-16"),
    "UTF-16 ": (TEXT.encode("utf-16-le"), "iconv -f UTF-16"),
    "UTF-16  ": (TEXT.encode("utf-16-be"), "iconv -f UTF-16"),
    "UTF-32": (TEXT.encode("utf-32"), "iconv -f UTF-32"),
    "web page": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "fetch"),
    "web page ": (b"\xef\xbb\xbf<HTML>", "fetch"),
    "Git LFS": (LFS.encode(), "git lfs pull"),
    "git-annex": (b"../../.git/annex/objects/Xv/9k/MD5E-s1--00.json", "git annex get"),
    "zero bytes": (b"\0" * 10_000, "fetch"),
    "pickle": (b"\x80\x04\x95\x10\x00", "convert"),
    "Parquet": (b"PAR1\x15\x04", "asked for"),
    "JPEG": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "asked for"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_kind_is_named_with_what_to_do(name: str) -> None:
    content, remedy = FOREIGN[name]
    found = foreign_format(content[:HEAD])
    assert found is not None
    assert name.strip() in found.name
    assert remedy in found.remedy


@pytest.mark.parametrize(
    "content",
    [TEXT.encode(), TEXT.encode("utf-8-sig"), b"", b"[]", b" [1]", b"\n{}", b"7", b"id,name\n"],
)
def test_text_is_nothing_foreign(content: bytes) -> None:
    assert foreign_format(content[:HEAD]) is None
