"""The faults: functions of a place that return the outcome, and raise ``Violation`` if something forbidden
happened."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .commands import Command, members
from .place import DATA, OF_DATA, ROWS, PassTarget, Place, Target, claim, die_at_write, targets_of

SAME = "same result after a rerun"
REPAIRED = "failed with the right reason, same result after repair"
HARMLESS = "not touched by it, same result"

BY_KIND: dict[str, list[Target]] = {}
for _each in [*(target for row in ROWS for target in targets_of(row)), *OF_DATA]:
    BY_KIND.setdefault(_each.kind, []).append(_each)
TRAININGS = ["train all", "train classifier", "train with meta step"]
STAGES = [*TRAININGS, "fit", "transform"]
EVERY = [*STAGES, "predict", "evaluate", "statistics", "intermediates"]
PASSES = [
    PassTarget("train classifier", ("bags", "others_1")),
    PassTarget("predict", ("bags", "others_1")),
    PassTarget("predict", ("softmax", "tau_norm")),
]


def _target(place: Place, kinds: list[str]) -> Target:
    return place.draw.choice(BY_KIND[place.draw.choice(kinds)])


def _moment(place: Place, target: Target) -> float:
    """A number of seconds of CPU time within what the step needs."""
    return place.draw.uniform(0.01, place.reference.cpu_seconds[target.kind])


def _after(seconds: float, then: signal.Handlers | Callable[..., None]) -> None:
    signal.signal(signal.SIGPROF, then)
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _killed(place: Place, target: Target, prepare: Callable[[], None], *more: str) -> bool:
    """Start a step and kill it; returns whether it was killed before its end."""
    place.forget(target)
    command = place.run(target, prepare, *more)
    claim(command.status is not None and command.status <= 0, f"status {command.status}:\n{command.output}")
    place.check_tables()
    if command.status == 0:
        place.check_recovered(target)
        return False
    record = place.record(target)
    claim(record is None or record.state in ("running", "done"), f"the record says {record}")
    return True


def killed_anywhere(place: Place) -> str:
    """The process is killed at a random moment."""
    target = _target(place, EVERY)
    moment = _moment(place, target)
    loading = place.draw.random() < 0.3 and target.kind in (*TRAININGS, "predict")
    more = ("--workers", "1") if loading else ()
    if not _killed(place, target, lambda: _after(moment, signal.SIG_DFL), *more):
        return HARMLESS
    place.recover(target)
    return SAME


def killed_again_and_again(place: Place) -> str:
    """A training is killed three times."""
    target = _target(place, TRAININGS)
    for _ in range(3):
        moment = place.draw.uniform(0.5, 1) * place.reference.cpu_seconds[target.kind]
        place.commands.clear()
        command = place.run(target, lambda moment=moment: _after(moment, signal.SIG_DFL))
        claim(command.status is not None and command.status <= 0, command.output)
        place.check_tables()
    place.recover(target)
    return SAME


def killed_around_a_write(place: Place) -> str:
    """The process is killed between writing a file and renaming it, or just after."""
    target = _target(place, EVERY)
    number = place.draw.randint(1, place.reference.writes[target.kind])
    before = place.draw.random() < 0.5
    claim(_killed(place, target, lambda: die_at_write(number, before)), "the fault did not happen")
    place.recover(target)
    return SAME


def killed_within_a_write(place: Place) -> str:
    """The process is killed while it writes a file: the kernel ends it at a limit of bytes."""
    target = _target(place, [*STAGES, "predict"])
    whole = (place.folder / target.output).stat().st_size
    limit = place.draw.randint(8000, whole - 1) if whole > 8001 else whole - 1

    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    claim(_killed(place, target, prepare), "the fault did not happen")
    place.recover(target)
    return SAME


def ended_shared_pass(place: Place) -> str:
    """A pass that trains classifiers, or predicts with them, is killed or told to stop; made again, by itself
    or by the jobs of its steps, each ends as if it had been made alone."""
    shared = place.draw.choice(PASSES)
    before = [Target("transform", "tau_norm", "normalise")] if "tau_norm" in shared.rows else []
    for target in [*before, *shared.members]:
        place.forget(target)
    moment = place.draw.uniform(0.01, 1.5) * place.reference.cpu_seconds[shared.kind]
    killed = place.draw.random() < 0.6

    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    command = place.run(shared, lambda: _after(moment, signal.SIG_DFL if killed else stop))
    place.check_tables()
    claim(command.status in (0, 3, -signal.SIGPROF, -signal.SIGTERM), command.output)
    outcome = HARMLESS if command.status == 0 else SAME
    if command.status != 0 and place.draw.random() < 0.7:
        again = place.run(shared)
        claim(again.status == 0, f"the same command again ended with {again.status}:\n{again.output}")
    for target in [*before, *shared.members]:
        command = place.run(target)
        claim(command.status == 0, f"its own job ended with {command.status}:\n{command.output}")
    shared.shared.done.unlink(missing_ok=True)  # as Snakemake does
    for target in [*before, *shared.members]:
        place.check_recovered(target)
    return outcome


def terminated(place: Place) -> str:
    """SIGTERM, as from a scheduler or Ctrl-C of a workflow: status 3, a record that says so, nothing half."""
    target = _target(place, EVERY)
    moment = _moment(place, target)
    place.forget(target)

    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    command = place.run(target, lambda: _after(moment, stop))
    place.check_tables()
    if command.status == 0:
        place.check_recovered(target)
        return HARMLESS
    early = -signal.SIGTERM  # before the command could say what to do with it
    claim(command.status in (3, early), f"exit status {command.status}:\n{command.output}")
    record = place.record(target)
    states = ("interrupted", "running") if command.status == 3 else ()
    claim(record is None or record.state in (*states, "done"), f"the record says {record}")
    claim("Traceback" not in command.output, f"a traceback:\n{command.output}")
    place.check_no_temporary()
    place.recover(target)
    return "interrupted, same result after a rerun"


def damage(path: Path, draw: random.Random) -> str:
    """Truncate or empty a file, flip one bit, or overwrite a part; returns what was done."""
    content = bytearray(path.read_bytes())
    how = draw.choice(["truncated", "emptied", "bit flipped", "bit flipped", "overwritten"])
    if how == "truncated":
        content = content[: draw.randrange(1, len(content))]
    elif how == "emptied":
        content = bytearray()
    elif how == "bit flipped":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    else:
        start = draw.randrange(len(content))
        length = min(len(content) - start, 512)
        content[start : start + length] = bytes(length)
    path.write_bytes(content)
    return how


def damaged_unfinished_checkpoint(place: Place) -> str:
    """The newest checkpoint of a killed training is damaged: the training uses the one before, or none."""
    target = _target(place, TRAININGS)
    writes = place.reference.writes[target.kind]
    # after these come: the finished checkpoint, its record, the mark of its source, its place in the store
    number = writes - 4
    claim(_killed(place, target, lambda: die_at_write(number, before=False)), "the fault did not happen")
    found = sorted(place.folder.glob("results/work/*/*/resume/iteration_*.pt"))
    claim(bool(found), "no checkpoint to damage")
    victim = found[-1] if place.draw.random() < 0.8 else found[-1].with_suffix(".sha256")
    damage(victim, place.draw)
    place.recover(target)
    return SAME


def damaged_finished_checkpoint(place: Place) -> str:
    """A finished checkpoint is damaged: steps that start from it refuse it by name."""
    target = _target(place, ["train classifier", "train with meta step", "fit", "transform", "predict"])
    checkpoint = target.input("checkpoint" if target.kind == "predict" else "init")
    place.forget(target)
    damage(checkpoint, place.draw)
    return _refused_or_harmless(place, target, checkpoint)


def _refused_or_harmless(place: Place, target: Target, victim: Path, *words: str) -> str:
    """After ``victim`` was damaged: a clear error, or the same result if the damage does no harm."""
    command = place.run(target)
    place.check_tables()
    if command.status == 0:
        place.check_same(target)
        outcome = HARMLESS
    else:
        place.check_refused(target, command, *(words or (str(victim),)))
        outcome = REPAIRED
    _restore(place, victim)
    place.recover(target)
    return outcome


def _restore(place: Place, path: Path) -> None:
    shutil.copy2(place.reference.folder / path, place.folder / path)


def damaged_detections(place: Place) -> str:
    """Detections are damaged between prediction and evaluation."""
    target = _target(place, ["evaluate"])
    place.forget(target)
    detections = target.input("detections")
    damage(detections, place.draw)
    return _refused_or_harmless(place, target, detections)


def exchanged_detections(place: Place) -> str:
    """Valid detections of another model: with changed scores, or from another run."""
    target = _target(place, ["evaluate"])
    path = target.input("detections")
    if place.draw.random() < 0.5:
        others = [other.input("detections") for other in BY_KIND["evaluate"] if other.row != target.row]
        shutil.copy2(place.reference.folder / place.draw.choice(others), path)
    else:
        table = pq.read_table(path)
        column = table.schema.get_field_index("score")
        scores = [1 - score for score in table["score"].to_pylist()]
        field = table.schema.field(column)
        pq.write_table(table.set_column(column, field, pa.array(scores, field.type)), path)
    place.check_tables(everything=True)  # the numbers are still those of the right ones
    place.forget(target)
    place.check_refused(target, place.run(target), str(path), "has changed since it was made")
    _restore(place, path)
    place.recover(target)
    return REPAIRED


def altered_results(place: Place) -> str:
    """Metrics or a record are damaged after the evaluation: none of their numbers is shown."""
    target = _target(place, ["evaluate"])
    victim = place.draw.choice([target.output, target.step.record])
    before = victim.read_bytes()
    damage(victim, place.draw)
    results = place.check_tables()
    if results[target.row].done:
        claim(victim != target.output or victim.read_bytes() == before, "altered metrics count as done")
    place.recover(target)
    return "refused by the table, same result after a rerun"


def limited_files(place: Place) -> str:
    """No file may grow beyond a limit, as with a quota: one clear message, and the last state is kept."""
    target = _target(place, [*STAGES, "predict"])
    whole = (place.folder / target.output).stat().st_size
    limit = place.draw.choice([place.draw.randint(200, 8000), place.draw.randint(8000, max(8001, whole - 1))])
    place.forget(target)
    command = place.run(target, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _check_out_of_space(place, command)
    place.recover(target)
    return REPAIRED


@contextmanager
def _disk_of_its_own(place: Place) -> Iterator[None]:
    """The place on a small disk, with room for three unfinished checkpoints with optimiser state."""
    files = [path for path in place.reference.folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size + 4096 for path in files) + 192 * 2**20
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "faults", str(place.folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        place.copy()
        os.chdir(place.folder)
        yield
    finally:
        os.chdir(place.folder.parent)
        subprocess.run(["umount", str(place.folder)], check=True)


def full_disk(place: Place) -> str:
    """The disk is full, or becomes full while the command writes."""
    target = _target(place, [*STAGES, "predict"])
    whole = (place.folder / target.output).stat().st_size
    free = place.draw.choice([0, place.draw.randint(0, 16_000), place.draw.randint(0, whole)])
    try:
        with _disk_of_its_own(place):
            place.forget(target)
            ballast = place.folder / "ballast"
            disk = os.statvfs(place.folder)
            ballast.write_bytes(bytes(max(0, disk.f_bavail * disk.f_bsize - free)))
            command = place.run(target)
            _check_out_of_space(place, command)
            ballast.unlink()
            place.recover(target)
    except subprocess.CalledProcessError:
        return "left out: only root can make a small disk"
    return REPAIRED


def _check_out_of_space(place: Place, command: Command) -> None:
    place.check_tables()
    claim(command.status == 2, f"exit status {command.status}, expected 2:\n{command.output}")
    claim("Traceback" not in command.output, f"a traceback:\n{command.output}")
    for word in ("cannot write", "remedy"):
        claim(word in command.output, f"'{word}' is not in the message:\n{command.output}")
    place.check_no_temporary()


def damaged_image(place: Place) -> str:
    """An image is missing, damaged or of another size: the message names it."""
    target = _target(place, ["train all", "train classifier", "fit", "predict"])
    split = "val" if target.kind == "predict" else "train"
    image = place.draw.choice(sorted((DATA / "images").glob(f"{split}_*.png")))
    place.forget(target)
    how = place.draw.choice(["missing", "damaged", "damaged", "other"])
    if how == "missing":
        image.unlink()
    elif how == "damaged":
        damage(image, place.draw)
    else:
        image.write_bytes(b"GIF89a" + bytes(100))
    return _refused_or_harmless(place, target, image, image.name)


def _bad_values(content: dict, draw: random.Random) -> None:
    record = draw.choice(content["annotations"])
    for key, value in [
        draw.choice(
            [
                ("bbox", [float("nan")] * 4),
                ("bbox", [1, 2, 3]),
                ("bbox", "everywhere"),
                ("category_id", 10**6),
                ("category_id", "cat"),
                ("image_id", -1),
                ("image_id", 10**30),
                ("segmentation", [[1, 2]]),
                ("segmentation", {"size": [10**9, 10**9], "counts": "1"}),
            ]
        )
    ]:
        record[key] = value


def _bad_structure(content: dict, draw: random.Random) -> None:
    key = draw.choice(["annotations", "images", "categories"])
    action = draw.choice(["gone", "null", "text", "twice"])
    if action == "gone":
        del content[key]
    elif action == "twice":
        content[key].append(dict(content[key][0]))
    else:
        content[key] = None if action == "null" else "many"


def hostile_annotations(place: Place) -> str:
    """The annotation file is truncated, nested without end, or has impossible values."""
    target = place.draw.choice([BY_KIND["train all"][0], BY_KIND["train classifier"][0]])
    path = DATA / place.draw.choice(["train.json", "train.json", "val.json"])
    how = place.draw.choice(["cut", "nested", "values", "values", "structure", "structure"])
    if how == "cut":
        path.write_bytes(path.read_bytes()[: place.draw.randrange(1, path.stat().st_size - 2)])
    elif how == "nested":
        path.write_text("[" * 100_000)
    else:
        content = json.loads(path.read_text())
        (_bad_values if how == "values" else _bad_structure)(content, place.draw)
        path.write_text(json.dumps(content))
    command = place.run(Target("all", target.row, ""))  # every step that is missing
    results = place.check_tables()
    claim(not results[target.row].done, "numbers of other annotations stand in the table as those of these")
    place.check_no_temporary()
    claim(command.status == 2, f"exit status {command.status}, expected 2:\n{command.output}")
    claim("Traceback" not in command.output, f"a traceback:\n{command.output}")
    claim(str(path) in command.output, f"'{path}' is not in the message:\n{command.output}")
    _restore(place, path)
    place.check_tables(everything=True)  # what was made from the right ones is still there
    return "refused, and nothing lost"


def two_at_once(place: Place) -> str:
    """The same command is started twice: one makes the output, the other waits a moment or is refused."""
    target = _target(place, EVERY)
    place.forget(target)
    first = place.start(target)
    time.sleep(place.draw.uniform(0, 0.3))
    second = place.start(target)
    statuses = {first.wait(), second.wait()}
    claim(0 in statuses and statuses <= {0, 2}, f"{statuses}:\n{first.output}\n{second.output}")
    if 2 in statuses:
        refused = first if first.status else second
        claim("another process is making" in refused.output, refused.output)
    place.check_recovered(target)
    return "one made it, the other was refused or came after it"


def dead_rank(place: Place) -> str:
    """One of two processes is killed: the job ends soon with an error, and leaves no process."""
    (target,) = (target for target in BY_KIND["train all"] if target.row == "softmax")
    place.forget(target)
    command = [sys.executable, "-m", "benchmark.cli", *target.arguments, "--devices", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def begin() -> subprocess.Popen[bytes]:
        with place.log.open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    main = begin()
    while len(ranks := members(main.pid)) < 2 and main.poll() is None:
        time.sleep(0.02)
    time.sleep(place.draw.uniform(0, 10))
    victim = max(ranks)
    try:
        os.kill(victim, signal.SIGKILL)
        status = main.wait(120)
    except ProcessLookupError:
        status = main.wait()
    except subprocess.TimeoutExpired:
        os.killpg(main.pid, signal.SIGKILL)
        claim(False, "a dead rank does not end the job within two minutes")
    output = place.log.read_text(errors="replace")
    deadline = time.monotonic() + 15
    while (left := members(main.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    claim(not left, f"processes outlive their command: {left}")
    if status == 0:
        return HARMLESS
    place.check_tables()
    record = place.record(target)
    claim(record is None or record.state != "done", f"the record says {record}")
    again = begin()
    claim(again.wait(600) == 0, f"the same command again ended with {again.returncode}:\n{output}")
    place.check_no_temporary()
    place.forget(target)
    place.recover(target)
    return "the job ended, and finished when run again"


COUNTS: dict[Callable[[Place], str], int] = {
    killed_anywhere: 50,
    killed_again_and_again: 8,
    killed_around_a_write: 36,
    killed_within_a_write: 14,
    terminated: 28,
    ended_shared_pass: 20,
    damaged_unfinished_checkpoint: 16,
    damaged_finished_checkpoint: 16,
    damaged_detections: 12,
    exchanged_detections: 6,
    altered_results: 10,
    limited_files: 14,
    full_disk: 6,
    damaged_image: 16,
    hostile_annotations: 16,
    two_at_once: 6,
    dead_rank: 2,
}
"""How many faults of each kind a whole run has."""
