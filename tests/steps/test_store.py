"""Finished steps are moved into the store as a whole and never change there; stores merge by copying."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from places import fabricate, step_of

from benchmark.files import BusyError, exclusive
from benchmark.recipes import find_run
from benchmark.recipes.models import Run
from benchmark.recipes.paths import run_name
from benchmark.records import read_record, record_step
from benchmark.steps import Means, Step, link, make, older, own_steps, steps_of, warn_of_old_layout
from benchmark.steps.making import StepError
from benchmark.steps.store import publish

TINY = str(Path(__file__).parents[1] / "workflow" / "tiny.yaml")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return find_run(f"{TINY}:bags")


def with_versions(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    from benchmark.numerics import area_versions

    changed = area_versions() | versions
    monkeypatch.setattr("benchmark.steps.step.area_versions", lambda: changed)


def test_a_finished_step_is_there_as_a_whole_with_its_record(run: Run) -> None:
    step = step_of(run, "synthesize")
    assert not step.finished
    assert make(step, Means())
    assert step.finished
    assert not step.work.exists()
    record = read_record(step.record)
    assert record is not None
    assert (record.state, record.subject.key, record.subject.owner) == ("done", step.key, "synthetic_tiny")
    assert {output.name for output in record.outputs} == {"train.json", "val.json", "images"}
    before = {path: path.stat().st_mtime_ns for path in step.folder.iterdir() if path.name != "done"}
    assert not make(step, Means())  # what is made already stays
    assert before == {path: path.stat().st_mtime_ns for path in step.folder.iterdir() if path.name != "done"}


def test_of_two_that_finish_the_same_step_the_first_stays(run: Run) -> None:
    step = step_of(run, "retrain")
    step.work.mkdir(parents=True)
    (step.work / "record.json").write_text("of the second")
    kept = step.work.rename(step.work.with_name("kept"))
    fabricate(step, "of the first")
    kept.rename(step.work)
    publish(step)
    assert step.output().read_text() == "of the first"
    assert not step.work.exists()


def test_a_finished_step_that_was_damaged_is_made_again(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    step = step_of(run, "statistics")
    for item in steps_of(run)[:2]:
        make(item, Means())
    right = step.output().read_bytes()
    step.output().write_bytes(right[:-9])
    assert make(step, Means())
    assert step.output().read_bytes() == right
    assert "is damaged: it is made again" in caplog.text


def test_a_step_that_was_killed_before_it_was_put_into_the_store_is_not_made_twice(run: Run) -> None:
    step = step_of(run, "statistics")
    make(steps_of(run)[0], Means())
    with record_step(step.work, step.subject):
        step.output().parent.mkdir(parents=True)  # as Snakemake does
        (step.work / "class_statistics.csv").write_text("made")
    assert not make(step, Means())
    assert step.finished
    assert step.output().read_text() == "made"


def test_a_second_process_with_the_same_step_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmark.files.LOCK_WAIT", 0.2)
    step = step_of(run, "synthesize")
    script = """
        import sys
        from pathlib import Path
        from benchmark.files import exclusive
        with exclusive(Path(sys.argv[1]), Path("out")):
            print("started", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(step.lock)]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "started\n"
        with pytest.raises(BusyError, match=rf"(?s)another process is making .*process {first.pid} on"):
            make(step, Means())
        assert not step.work.exists()
        first.kill()
        first.wait()
    assert make(step, Means())  # the lock of a dead process is taken over
    assert [path.name for path in step.work.parent.iterdir()] == []


def test_a_lock_that_a_killed_process_left_beside_its_result_is_removed(run: Run) -> None:
    """It was killed between the move into the store and the end of the lock."""
    step = step_of(run, "predict")
    fabricate(step, "first")
    step.lock.touch()
    assert not make(step, Means())
    assert not step.lock.exists()
    with exclusive(step.lock, step.work):
        assert not make(step, Means())
        assert step.lock.exists()


def test_what_is_left_of_a_damaged_step_is_replaced(run: Run) -> None:
    step = step_of(run, "predict")
    fabricate(step, "first")
    step.output().unlink()
    assert not step.finished
    fabricate(step, "second")
    assert step.finished
    assert step.output().read_text() == "second"


def test_an_input_that_was_changed_is_refused(run: Run) -> None:
    predict, evaluate = steps_of(run)[-2:]
    for step in steps_of(run)[:-1]:
        fabricate(step)
    predict.output().write_text("altered")
    with pytest.raises(
        StepError, match=r"(?s)'predict' of BAGS has changed since it was made.*other content"
    ):
        make(evaluate, Means())
    predict.output().unlink()
    with pytest.raises(StepError, match=r"(?s)'predict' of BAGS has changed since it was made.*no such file"):
        make(evaluate, Means())
    record = read_record(evaluate.record)
    assert record is not None
    assert record.state == "failed"


def test_a_store_on_another_disk_takes_the_step_as_well(run: Run, tmp_path: Path) -> None:
    """A shared memory disk stands for another disk, to which a folder cannot be renamed."""
    other = Path("/dev/shm") / tmp_path.name
    if not other.parent.is_dir() or other.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk")
    other.mkdir()
    try:
        Path("results").mkdir()
        Path("results/store").symlink_to(other)
        step = step_of(run, "predict")
        fabricate(step)
        assert step.finished
        assert {path.name for path in step.folder.parent.iterdir()} == {step.key}
        assert not step.work.exists()
    finally:
        shutil.rmtree(other)


def test_stores_of_two_places_merge_by_copying(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = steps_of(run)
    for number, step in enumerate(steps):
        place = tmp_path / ("here" if number % 2 else "there")
        place.mkdir(exist_ok=True)
        monkeypatch.chdir(place)
        fabricate(step)
    shutil.copytree(tmp_path / "there/results/store", tmp_path / "here/results/store", dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    assert all(step.finished for step in steps)


def test_older_results_of_the_same_step_are_found_newest_first(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []
    for version in ("7", "8", "9"):
        with_versions(monkeypatch, evaluation=version)
        step = steps_of(run)[-1]
        if version != "9":
            fabricate(step)
            folders.append(step.folder)
    assert not step.finished
    assert older(step) == folders[::-1]


def linked(run: Run, step: Step) -> Path:
    """The path of a link; the tables that a method reads are linked beside its steps."""
    owner = step.subject.owner if not step.kind.of_dataset else run_name(run)
    of_all = step.name in ("synthesize", "statistics")
    return Path("results") / ("data/synthetic_tiny" if of_all else f"runs/{owner}") / step.name


def test_readable_links_follow_the_recipe(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in steps_of(run)[:-1]:
        fabricate(step)
    link(run)
    for step in steps_of(run)[:-1]:
        assert linked(run, step).resolve() == step.folder.resolve()
    evaluate = steps_of(run)[-1]
    assert not linked(run, evaluate).exists()
    with_versions(monkeypatch, inference="99")
    predict = step_of(run, "predict")
    fabricate(predict)
    link(run)
    assert linked(run, predict).resolve() == predict.folder.resolve()


def test_results_of_the_old_layout_are_left_alone_with_a_sentence(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    predict = own_steps(run)[1]
    old = linked(run, predict)
    old.mkdir(parents=True)
    (old / "detections.provenance.json").write_text("{}")
    fabricate(predict)
    link(run)
    assert not old.is_symlink()
    assert (old / "detections.provenance.json").read_text() == "{}"
    caplog.set_level("INFO", "benchmark")
    warn_of_old_layout()
    assert caplog.text.count("results of version 0.1") == 1
