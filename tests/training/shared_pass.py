"""Shared passes of ``sharing.yaml``, with schedules of different lengths.

``python shared_pass.py DETECTOR ROW...`` makes that of some rows, in the working directory.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.recipes import load_experiment, with_detector
from benchmark.recipes.models import Run, Schedule
from benchmark.steps import Means, Step, steps_of
from benchmark.steps.listing import RETRAIN
from benchmark.steps.making import make_shared
from benchmark.steps.sharing import SharedPass, shared_passes

EXPERIMENT = Path(__file__).parent / "sharing.yaml"
LENGTHS = {"bags": 5, "acsl": 4, "balanced_softmax": 4, "balms": 5}
"""Iterations of rows that do not have the budget's 3."""


def retrainings(detector: str, rates: Mapping[str, float] | None = None) -> dict[str, Step]:
    """The retrainings of rows, with a checkpoint every 2 iterations.

    ``rates`` are learning rates of rows that do not use the budget's.
    """
    found = {}
    for row in load_experiment(str(with_detector(str(EXPERIMENT), detector))).rows:
        run, name = row.runs[0], row.id
        if any(stage.name == "retrain" for stage in run.stages):
            changes: dict[str, float] = {"iterations": LENGTHS.get(name, 3)}
            changes |= {"learning_rate": rates[name]} if rates and name in rates else {}
            found[name] = next(step for step in steps_of(_changed(run, changes)) if step.kind is RETRAIN)
    return found


def pass_of(steps: Sequence[Step]) -> SharedPass:
    """The only pass that the steps share."""
    (shared,) = shared_passes(steps)
    return shared


def _changed(run: Run, changes: Mapping[str, float]) -> Run:
    def changed(schedule: Schedule | None) -> Schedule:
        assert schedule is not None
        return Schedule(**(schedule.model_dump() | changes))

    stages = [
        stage.model_copy(update={"schedule": changed(stage.schedule)}) if stage.name == "retrain" else stage
        for stage in run.stages
    ]
    return run.model_copy(update={"stages": stages})


def main() -> None:
    """Make the pass, as the command does."""
    detector, *rows = sys.argv[1:]
    steps = retrainings(detector)
    make_shared(pass_of([steps[row] for row in rows]), Means())


if __name__ == "__main__":
    main()
