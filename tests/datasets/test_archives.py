"""Archives are extracted completely and only into the target, or not at all."""

import stat
import zipfile
from pathlib import Path

import pytest

from benchmark.datasets import DatasetError
from benchmark.datasets.archives import extract_file, extract_folder

GOOD = {"folder/a.jpg": b"a", "folder/deep/b.jpg": b"b", "list.json": b"[1, 2]", "__MACOSX/list.json": b"x"}


def packed(path: Path, entries: dict[str, bytes], **options: object) -> Path:
    with zipfile.ZipFile(path, "w", options.get("compression", zipfile.ZIP_DEFLATED)) as file:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = file.compression
            info.external_attr = (options.get("mode", stat.S_IFREG) | 0o644) << 16
            file.writestr(info, content)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_file_and_a_folder_are_unpacked_whole(tmp_path):
    archive = packed(tmp_path / "a.zip", GOOD)
    extract_file(archive, "list.json", tmp_path / "out" / "renamed.json")
    (tmp_path / "out" / "target").mkdir()  # an empty folder is in nobody's way
    extract_folder(archive, "folder", tmp_path / "out" / "target")
    assert contents(tmp_path / "out") == {
        "renamed.json": b"[1, 2]",
        "target/a.jpg": b"a",
        "target/deep/b.jpg": b"b",
    }
    assert (tmp_path / "out" / "target").stat().st_mode & 0o055 == 0o055
    with pytest.raises(DatasetError, match="0 files of the name"):
        extract_file(archive, "other.json", tmp_path / "out" / "other.json")
    with pytest.raises(DatasetError, match="no folder other"):
        extract_folder(archive, "other", tmp_path / "out" / "other")


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "folder/../../evil",
        "/tmp/evil",
        "..\\evil",
        "C:\\evil",
        "C:evil",
        "folder/..",
        "//host/evil",
    ],
)
def test_an_entry_that_leaves_the_folder_spoils_the_archive(tmp_path, name):
    archive = packed(tmp_path / "a.zip", GOOD | {name: b"x"})
    refused(archive, tmp_path, "stay inside")


def refused(archive: Path, tmp_path: Path, message: str) -> None:
    before = contents(tmp_path)
    with pytest.raises(DatasetError, match=message):
        extract_file(archive, "list.json", tmp_path / "out" / "list.json")
    with pytest.raises(DatasetError, match=message):
        extract_folder(archive, "folder", tmp_path / "out" / "folder")
    assert contents(tmp_path) == before
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path, mode):
    refused(packed(tmp_path / "a.zip", {"folder/link": b"/etc/passwd", **GOOD}, mode=mode), tmp_path, "link")


def test_bombs_are_refused_by_what_they_claim(tmp_path):
    refused(packed(tmp_path / "a.zip", GOOD | {"folder/zeros": bytes(10**7)}), tmp_path, "when unpacked")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_compressions_that_unpack_in_pieces_are_taken(tmp_path, compression):
    refused(packed(tmp_path / "a.zip", GOOD, compression=compression), tmp_path, "compression")


def patched(path: Path, entries: dict[str, bytes], old: bytes, new: bytes) -> Path:
    packed(path, entries)
    content = path.read_bytes()
    assert content.count(old) >= 1
    path.write_bytes(content.replace(old, new))
    return path


def test_an_entry_that_is_larger_than_it_claims_is_refused(tmp_path):
    """Both headers state a smaller size than the stream unpacks to."""
    content = bytes(200_001)
    archive = patched(
        tmp_path / "a.zip",
        {"list.json": content, "folder/a": content},
        (200_001).to_bytes(4, "little"),
        (100).to_bytes(4, "little"),
    )
    refused(archive, tmp_path, "damaged")


def test_damaged_archives_are_one_clear_error(tmp_path):
    archive = packed(tmp_path / "a.zip", GOOD, compression=zipfile.ZIP_STORED)
    content = archive.read_bytes()
    for damaged in (b"", b"no zip", content[:50], content[: len(content) // 2], content[:-10]):
        archive.write_bytes(damaged)
        refused(archive, tmp_path, "damaged")
    archive.write_bytes(content.replace(b"[1, 2]", b"[1, 3]"))  # the checksum of the entry tells
    with pytest.raises(DatasetError, match="damaged"):
        extract_file(archive, "list.json", tmp_path / "list.json")
    archive.write_bytes(content)
    packed(archive, {"folder/a": b"1"})
    with zipfile.ZipFile(archive, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("folder/a", b"2")
    with pytest.raises(DatasetError, match="same name"):
        extract_folder(archive, "folder", tmp_path / "folder")
    assert contents(tmp_path) == {"a.zip": archive.read_bytes()}
