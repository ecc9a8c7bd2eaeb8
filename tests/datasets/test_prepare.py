"""A dataset is prepared from any of its sources, a second call changes nothing, and missing files are named
exactly."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner
from web_server import Site, serving

from benchmark.annotations import vocabulary_hash
from benchmark.annotations.vocabulary import KNOWN
from benchmark.cli import app
from benchmark.datasets import DatasetError, Prepared, download, prepare_dataset
from benchmark.recipes import load_dataset
from benchmark.recipes.models import Dataset

NAMES = {1: "cat", 2: "dog"}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0.0)


def annotations(names: dict[int, str] = NAMES) -> bytes:
    return json.dumps(
        {
            "images": [{"id": 1}, {"id": 2}],
            "annotations": [{"image_id": 1, "category_id": 1}],
            "categories": [{"id": id_, "name": name} for id_, name in names.items()],
        }
    ).encode()


def packed(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("train.json", annotations())
        file.writestr("train2017/1.jpg", "1")
        file.writestr("train2017/2.jpg", "2")
    return path.read_bytes()


def dataset(url: str, content: bytes, **facts: object) -> Dataset:
    archive = {
        "url": f"{url}/all.zip",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    } | facts
    split = {"annotations": "a/train.json", "images": "coco"}
    return Dataset.model_validate(
        {
            "name": "tiny",
            "title": "Tiny",
            "categories": 2,
            "train": split,
            "val": split,
            "vocabulary": vocabulary_hash(NAMES.items()),
            "files": [
                {"path": "a/train.json", "images": 2, "annotations": 1, "archive": archive},
                {"path": "coco/train2017", "images": 2, "archive": archive},
            ],
        }
    )


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


EVERYTHING = {"a/train.json", "coco/train2017/1.jpg", "coco/train2017/2.jpg"}


def prepare(model: Dataset, data: Path, coco: Path | None = None) -> tuple[list[Prepared], list[str]]:
    lines: list[str] = []
    return prepare_dataset(model, data, coco, lines.append), lines


def test_everything_is_fetched_once_and_the_second_call_does_nothing(tmp_path):
    content, data = packed(tmp_path / "all.zip"), tmp_path / "data"
    with serving(Site(content, breaks_after=[100])) as site:
        model = dataset(site.url, content)
        done, lines = prepare(model, data)
        assert [item.ready for item in done] == [True, True]
        assert done[0].text == "2 images, 1 annotations, 2 categories"
        assert files(data) == EVERYTHING  # neither archive nor part stays
        assert len(site.asked) == 2
        assert any("fetching" in line for line in lines)
        assert prepare(model, data) == (done, [])
        assert len(site.asked) == 2


def test_without_network_the_list_says_what_to_put_where_and_that_is_enough(tmp_path):
    content, data = packed(tmp_path / "all.zip"), tmp_path / "data"
    model = dataset("http://127.0.0.1:9", content)
    done, _ = prepare(model, data)
    assert [item.ready for item in done] == [False, False]
    for item in done:
        for part in ("http://127.0.0.1:9/all.zip", hashlib.sha256(content).hexdigest(), f"{len(content):,}"):
            assert part in item.text
        assert str(data / "downloads" / "all.zip") in item.text
        assert item.path.name in item.text
        assert "Connection refused" in item.text
    assert files(data) == set()
    shutil.copy(tmp_path / "all.zip", data / "downloads")
    done, _ = prepare(model, data)
    assert [item.ready for item in done] == [True, True]
    assert files(data) == EVERYTHING | {"downloads/all.zip"}  # it is not ours to remove


def test_wrong_bytes_are_never_unpacked(tmp_path):
    content, data = packed(tmp_path / "all.zip"), tmp_path / "data"
    with serving(Site(content[:-1] + b"x")) as site:
        done, _ = prepare(dataset(site.url, content), data)
        assert [item.ready for item in done] == [False, False]
        assert "SHA-256" in done[0].text
        assert files(data) == set()
    (data / "downloads" / "all.zip").write_bytes(b"sign in first")
    with pytest.raises(DatasetError, match="not the expected file"):
        prepare(dataset(site.url, content), data)
    assert files(data) == {"downloads/all.zip"}


@pytest.mark.parametrize("layout", ["", "images"])
def test_an_existing_coco_folder_is_linked(tmp_path, layout):
    content, data, coco = packed(tmp_path / "all.zip"), tmp_path / "data", tmp_path / "my coco"
    images = coco / layout / "train2017"
    images.mkdir(parents=True)
    (images / "1.jpg").touch()
    (images / "2.jpg").touch()
    (data / "a").mkdir(parents=True)
    (data / "a" / "train.json").write_bytes(annotations())
    (data / "coco").mkdir()
    (data / "coco" / "train2017").symlink_to(tmp_path / "moved away")
    done, _ = prepare(dataset("http://127.0.0.1:9", content), data, coco)
    assert [item.ready for item in done] == [True, True]
    assert (data / "coco" / "train2017").resolve() == images.resolve()
    (images / "2.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 images(.|\n)*2 images"):
        prepare(dataset("http://127.0.0.1:9", content), data, coco)
    assert {path.name for path in coco.rglob("*.*")} == {"1.jpg"}


def test_a_folder_without_coco_in_it_is_bad_input(tmp_path):
    (tmp_path / "train2014").mkdir()
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DatasetError, match=r"not a folder of COCO(.|\n)*train2017"):
            prepare(dataset("http://127.0.0.1:9", b"x"), tmp_path / "data", folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (annotations({1: "cat", 3: "dog"}), "different categories"),
        (annotations().replace(b'{"id": 2}', b'{"id": 2}, {"id": 3}'), "3 images"),
        (annotations()[:-20], "ends in the middle"),
    ],
)
def test_a_file_of_another_version_is_not_taken_for_the_right_one(tmp_path, content, message):
    path = tmp_path / "a" / "train.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(Exception, match=message) as caught:
        prepare(dataset("http://127.0.0.1:9", b"x"), tmp_path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_a_dataset_that_lists_no_files_is_checked_by_its_splits(tmp_path):
    model = dataset("http://127.0.0.1:9", b"x").model_copy(update={"files": []})
    done, _ = prepare(model, tmp_path)
    assert {str(item.path.relative_to(tmp_path)): item.ready for item in done} == {
        "a/train.json": False,
        "coco": False,
    }
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "train.json").write_bytes(annotations())
    (tmp_path / "coco" / "train2017").mkdir(parents=True)
    done, _ = prepare(model, tmp_path)
    assert all(item.ready for item in done)


def test_the_exit_status_tells_ready_missing_and_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = packed(tmp_path / "all.zip")
    model = dataset("http://127.0.0.1:9", content)
    (tmp_path / "tiny.yaml").write_text(model.model_dump_json(exclude_none=True))
    run: Callable[..., object] = lambda *words: CliRunner().invoke(app, ["data", "prepare", *words])  # noqa: E731
    result = run("tiny.yaml", "--data", "there")
    assert result.exit_code == 1
    assert result.stdout.count("missing  there/") == 2
    assert "0 of 2 ready" in result.stderr
    shutil.copy(tmp_path / "all.zip", "there/downloads")
    result = run("tiny.yaml", "--data", "there")
    assert result.exit_code == 0
    assert result.stdout.count("ready    there/") == 2
    result = run("synthetic_tiny")
    assert result.exit_code == 0
    made = tmp_path / "results/data/synthetic_tiny/synthesize/train.json"
    before = made.stat().st_mtime_ns
    assert run("synthetic_tiny").exit_code == 0
    assert made.stat().st_mtime_ns == before


def with_stuff_maps(model: Dataset, archive: dict[str, object]) -> Dataset:
    content = model.model_dump(exclude_defaults=True)
    content["train"] |= {"stuff_maps": "coco/stuffthingmaps"}
    content["files"].append({"path": "coco/stuffthingmaps/train2017", "images": 2, "archive": archive})
    return Dataset.model_validate(content)


def packed_maps(path: Path, outside: bool = False) -> bytes:
    with zipfile.ZipFile(path, "w") as file:
        for name in ("train2017/1.png", "train2017/2.png", "val2017/3.png", *["../out.png"] * outside):
            file.writestr(name, name)
    return path.read_bytes()


def test_stuff_maps_come_when_they_are_asked_for(tmp_path):
    """Their archive has no known checksum; the folder is what the data loader of HTC reads."""
    data, maps = tmp_path / "data", packed_maps(tmp_path / "maps.zip")
    with serving(Site(packed(tmp_path / "all.zip"))) as site, serving(Site(maps)) as other:
        model = with_stuff_maps(dataset(site.url, site.body), {"url": f"{other.url}/maps.zip"})
        done, lines = prepare(model, data)
        assert [item.ready for item in done] == [True, True]
        assert "only detectors with a semantic branch" in "".join(lines)
        assert not other.asked
        for _ in range(2):
            done = prepare_dataset(model, data, None, lines.append, stuff_maps=True)
            assert [(item.ready, item.text) for item in done][2:] == [(True, "2 images")]
        assert len(other.asked) == 1
        assert files(data) == EVERYTHING | {f"coco/stuffthingmaps/train2017/{n}.png" for n in (1, 2)}
        assert len(prepare(model, data)[0]) == 3  # what is there is checked
        (data / "coco/stuffthingmaps/train2017/1.png").unlink()
        with pytest.raises(DatasetError, match="1 images"):
            prepare(model, data)
    with pytest.raises(DatasetError, match="has no stuff maps"):
        prepare_dataset(load_dataset("coco_lt"), data, None, lines.append, stuff_maps=True)


def test_stuff_maps_of_a_hostile_archive_stay_packed(tmp_path):
    data, maps = tmp_path / "data", packed_maps(tmp_path / "maps.zip", outside=True)
    with serving(Site(packed(tmp_path / "all.zip"))) as site, serving(Site(maps)) as other:
        model = with_stuff_maps(dataset(site.url, site.body), {"url": f"{other.url}/maps.zip"})
        with pytest.raises(DatasetError, match="not to be trusted"):
            prepare_dataset(model, data, None, print, stuff_maps=True)
    assert not (data / "coco/stuffthingmaps/train2017").exists()
    assert not list(tmp_path.rglob("out.png"))


def test_stuff_maps_of_a_coco_folder_are_linked(tmp_path):
    content, coco, data = packed(tmp_path / "all.zip"), tmp_path / "coco", tmp_path / "data"
    for folder in ("train2017", "stuffthingmaps/train2017"):
        (coco / folder).mkdir(parents=True)
        for name in "12":
            (coco / folder / name).write_text(name)
    with serving(Site(content)) as site:
        model = with_stuff_maps(dataset(site.url, content), {"url": "http://127.0.0.1:9/maps.zip"})
        done, _ = prepare(model, data, coco)
    assert [item.ready for item in done] == [True, True, True]
    assert (data / "coco/stuffthingmaps/train2017").resolve() == (coco / "stuffthingmaps/train2017").resolve()


@pytest.mark.parametrize(
    ("name", "title"),
    [("lvis_v0.5", "LVIS v0.5"), ("lvis_v1", "LVIS v1"), ("lvis_v1_minival", "LVIS v1"), ("coco_lt", "COCO")],
)
def test_the_published_datasets_say_what_they_consist_of(name, title):
    model = load_dataset(name)
    assert KNOWN[model.vocabulary] == f"{title} ({model.categories} categories)"
    paths = [file.path for file in model.files]
    for split in (model.train, model.val):
        assert split.annotations in paths
    assert "coco/train2017" in paths
    assert "coco/val2017" in paths
    assert all(file.archive or file.subsample for file in model.files)
    maps = [path for file, path in zip(model.files, paths, strict=True) if model.is_of_stuff(file)]
    assert maps == ["coco/stuffthingmaps/train2017"] * (model.train.stuff_maps is not None)
