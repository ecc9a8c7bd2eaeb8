"""Whatever a server does, a file with the final name is complete and correct."""

import fcntl
import hashlib
from pathlib import Path

import pytest
from web_server import Site, serving

from benchmark.datasets import DatasetError, download
from benchmark.datasets.download import DownloadError, check_archive
from benchmark.recipes.models import Archive

BODY = bytes(range(256)) * 1000
SUM = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(download, "PIECE", 1000)


def archive(site: Site, **facts: object) -> Archive:
    return Archive.model_validate({"url": f"{site.url}/a.zip", "bytes": len(BODY), "sha256": SUM} | facts)


def part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


@pytest.mark.parametrize("facts", [{}, {"sha256": None}, {"bytes": None}, {"bytes": None, "sha256": None}])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_comes_whole_over_connections_that_break(tmp_path, facts, ranges):
    target = tmp_path / "new" / "a.zip"
    with serving(Site(BODY, ranges, breaks_after=[1000, 100_000])) as site:
        download.download(archive(site, **facts), target)
    assert target.read_bytes() == BODY
    assert list(target.parent.iterdir()) == [target]
    assert site.asked[:2] == ["", "bytes=1000-"]
    assert len(site.asked) == 3


def test_a_part_of_an_earlier_call_is_continued_and_not_fetched_again(tmp_path):
    target = tmp_path / "a.zip"
    part_of(target).write_bytes(BODY[:200_000])
    with serving(Site(BODY)) as site:
        download.download(archive(site), target)
        assert site.asked == ["bytes=200000-"]
        assert target.read_bytes() == BODY
        target.rename(part_of(target))  # complete, but the earlier call was killed before it could say so
        download.download(archive(site, bytes=None), target)
        assert target.read_bytes() == BODY
        assert site.asked[1:] == ["bytes=256000-"]


@pytest.mark.parametrize("part", [b"x" * 1000, b"x" * 256_000, b"x" * 300_000])
def test_a_part_of_another_file_is_thrown_away(tmp_path, part):
    target = tmp_path / "a.zip"
    for facts in ({}, {"bytes": None}):
        part_of(target).write_bytes(part)
        with serving(Site(BODY)) as site:
            download.download(archive(site, **facts), target)
        assert target.read_bytes() == BODY
        target.unlink()


@pytest.mark.parametrize("facts", [{"sha256": "0" * 64}, {"sha256": "0" * 64, "bytes": None}])
def test_wrong_bytes_are_refused_and_leave_nothing(tmp_path, facts):
    target = tmp_path / "a.zip"
    with serving(Site(BODY)) as site, pytest.raises(DownloadError, match="SHA-256") as caught:
        download.download(archive(site, **facts), target)
    assert SUM in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_size_is_not_even_fetched(tmp_path, monkeypatch):
    target = tmp_path / "a.zip"
    with serving(Site(BODY)) as site:
        with pytest.raises(DownloadError, match="256000 bytes"):
            download.download(archive(site, bytes=7), target)
        monkeypatch.setattr(download, "LARGEST", 1000)
        with pytest.raises(DownloadError, match="more than 1000 bytes"):
            download.download(archive(site, bytes=None), target)
    assert not target.exists()
    assert part_of(target).stat().st_size <= 1000


@pytest.mark.parametrize(("status", "times"), [(404, 1), (403, 1), (503, 3)])
def test_a_refusal_is_told_with_its_reason(tmp_path, status, times):
    with serving(Site(BODY, status=status)) as site, pytest.raises(DownloadError, match=str(status)):
        download.download(archive(site), tmp_path / "a.zip")
    assert len(site.asked) == times
    assert not (tmp_path / "a.zip").exists()


def test_a_connection_that_always_breaks_keeps_what_came(tmp_path):
    target = tmp_path / "a.zip"
    with (
        serving(Site(BODY, ranges=False, breaks_after=[5000] * 50)) as site,
        pytest.raises(DownloadError, match="continues after the 5000 bytes"),
    ):
        download.download(archive(site), target)
    assert len(site.asked) == 3
    assert part_of(target).read_bytes() == BODY[:5000]
    assert not target.exists()
    with pytest.raises(DownloadError, match="could not be fetched"):
        download.download(archive(site), target)  # nobody answers any more


def test_two_processes_do_not_write_one_file(tmp_path):
    target = tmp_path / "a.zip"
    with part_of(target).open("ab") as file, serving(Site(BODY)) as site:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match="another process"):
            download.download(archive(site), target)
        assert site.asked == []


def test_a_file_put_there_by_hand_is_held_against_size_and_checksum(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(BODY)
    site = Site(BODY, url="http://example.invalid")
    check_archive(archive(site), path)
    for facts in ({"bytes": 7}, {"sha256": "0" * 64}):
        with pytest.raises(DatasetError, match="not the expected file"):
            check_archive(archive(site, **facts), path)
