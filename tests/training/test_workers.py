"""A step is that of the release's workers, however many processes take it and images go through at once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from lightning_fabric import Fabric
from steps_of_workers import CASES, OF_FOUR
from torch import Tensor, nn

from benchmark.detectors import TrainingPass
from benchmark.processes import _free_port
from benchmark.training.errors import TrainingError
from benchmark.training.workers import Gradients, Workers
from methods.bags import classifier as bags

SCRIPT = Path(__file__).parent / "steps_of_workers.py"
RELATIVE = 1e-4  # float32, sums in another order


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What one and two processes make of all cases, and four of some."""
    folder, found = tmp_path_factory.mktemp("steps"), {}
    for world in (1, 2, 4):
        output = folder / f"{world}.pt"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        environment |= {"MASTER_PORT": str(_free_port())}
        command = [sys.executable, str(SCRIPT), str(output), str(world)]
        processes = [
            subprocess.Popen(
                command, env=environment | {"LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True
            )
            for rank in range(world)
        ]
        errors = [process.communicate(timeout=600)[1] for process in processes]
        assert not any(process.returncode for process in processes), "\n".join(errors)
        found[world] = torch.load(output, weights_only=True)
    return found


def check_equal(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one["losses"].keys() == two["losses"].keys()
    for name, value in one["losses"].items():
        assert two["losses"][name].item() == pytest.approx(value.item(), rel=RELATIVE, abs=1e-6), name
    assert one["gradients"].keys() == two["gradients"].keys()
    largest = max(float(value.abs().max()) for value in one["gradients"].values())
    for name, value in one["gradients"].items():
        apart = (two["gradients"][name] - value).abs().max()
        assert apart <= RELATIVE * max(float(value.abs().max()), 1e-3 * largest), name


@pytest.mark.parametrize(
    ("case", "world"), [*((case, 2) for case in CASES), *((case, 4) for case in OF_FOUR)], ids=str
)
def test_processes_take_the_step_of_one(steps: dict[int, dict[str, Any]], case: Any, world: int) -> None:
    """Draws of group losses, ratios and means too; images of different sizes, one without objects."""
    check_equal(steps[1][str(case)], steps[world][str(case)])


@pytest.mark.parametrize("case", [case for case in CASES if case.at_once], ids=str)
def test_fewer_images_at_once_make_the_same_step(steps: dict[int, dict[str, Any]], case: Any) -> None:
    whole = type(case)(**(vars(case) | {"at_once": None}))
    check_equal(steps[1][str(whole)], steps[1][str(case)])


def test_workers_make_a_difference(steps: dict[int, dict[str, Any]]) -> None:
    """Of a group loss and of a ratio; a plain mean over RoIs would hardly change."""
    for classifier in ("bags", "gol"):
        losses = {
            size: torch.stack(
                list(steps[1][f"torchvision/mask_rcnn/{classifier}/{size}/True/None"]["losses"].values())
            )
            .sum()
            .item()
            for size in (1, 2, None)
        }
        assert len({round(value, 4) for value in losses.values()}) == 3


@pytest.mark.parametrize(
    ("batch_size", "size", "world", "expected"),
    [
        (16, 2, 1, [(worker, slice(2 * worker, 2 * worker + 2)) for worker in range(8)]),
        (16, 2, 8, [(5, slice(0, 2))]),
        (16, 16, 1, [(0, slice(0, 16))]),
        (16, None, 1, [(0, slice(0, 16))]),
        (2, 4, 1, [(0, slice(0, 2))]),  # a small budget: the worker has all
    ],
)
def test_how_images_are_dealt(
    batch_size: int, size: int | None, world: int, expected: list[tuple[int, slice]]
) -> None:
    workers = Workers(batch_size, size, rank=5 if world == 8 else 0, world_size=world)
    assert [(part.worker, part.images) for part in workers.parts] == expected
    assert workers.team.size == 1
    first = workers.positions(workers.parts[0], iteration=3)
    assert (first.start, len(first)) == (3 * batch_size + expected[0][0] * workers.size, workers.size)


@pytest.mark.parametrize(("batch_size", "size", "world"), [(16, 3, 1), (12, 4, 2), (16, None, 3), (6, 2, 2)])
def test_what_cannot_be_dealt_evenly_is_refused(batch_size: int, size: int | None, world: int) -> None:
    with pytest.raises(TrainingError, match="evenly") as error:
        Workers(batch_size, size, 0, world, where="stage train")
    assert "stage train" in str(error.value)


# ---- golden vectors, a case for each worker


@pytest.fixture
def _double() -> Iterator[None]:
    """Fabric converts what a module returns to the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Given(nn.Module):
    """Logits that are parameters, one set for each worker."""

    def __init__(self, logits: list[Tensor]) -> None:
        super().__init__()
        self.logits = nn.ParameterList(logits)

    def forward(self, worker: int, labels: Tensor) -> TrainingPass:
        return TrainingPass([self.logits[worker]], [labels], {}, {})


@pytest.mark.usefixtures("_double")
def test_groups_are_of_each_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """BAGS' released loss on the proposals of each worker, then the mean; an inactive group counts 0."""
    cases = [case.values[0] for case in golden_cases("bags", "group_softmax_loss")]
    alike = [
        case
        for case in cases
        if "logits" in case["inputs"]
        and case["inputs"]["instance_counts"] == cases[0]["inputs"]["instance_counts"]
        and case["hyperparameters"]["group_edges"] == [10, 100, 1000]
    ]
    inactive = [case["expected"]["loss_per_bin"].count(0) for case in alike]
    assert len(alike) > 3
    assert any(inactive)
    assert not all(inactive)
    counts = alike[0]["inputs"]["instance_counts"]
    classifier = bags.GroupSoftmax(4, statistics_of(counts)).double()
    width = classifier.linear.out_features
    labels = [torch.tensor(case["inputs"]["labels"]) for case in alike]
    ours = [torch.where(label == 0, classifier.num_classes, label - 1) for label in labels]
    module = Given(
        [torch.tensor(case["inputs"]["logits"], dtype=torch.float64).view(-1, width) for case in alike]
    )
    selected = iter([case["inputs"]["selected_proposals_per_group"] for case in alike])

    def drawn(targets: Tensor, others_ratio: float) -> Tensor:
        weights = torch.zeros_like(targets, dtype=torch.bool)
        for weight, chosen in zip(weights, next(selected), strict=True):
            weight[chosen] = True
        return weights

    monkeypatch.setattr(bags, "draw_others", drawn)
    fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
    wrapped = fabric.setup_module(module)
    workers = Workers(len(alike), 1)
    gradients = Gradients(fabric, wrapped, nn.ModuleList([classifier]), workers, (1.0,), seed=0)
    found = []
    for part in workers.parts:
        number = part.worker
        found.append(gradients.add(0, part, [lambda number=number: wrapped(number, ours[number])]))
    for bin_ in range(5):
        mean = torch.stack([losses[f"loss_cls_bin{bin_}"] for losses in found]).mean().item()
        expected = sum(case["expected"]["loss_per_bin"][bin_] for case in alike) / len(alike)
        assert mean == pytest.approx(expected, rel=tolerance("bags")["rtol"], abs=tolerance("bags")["atol"])
    for logits, case in zip(module.logits, alike, strict=True):
        expected = torch.tensor(case["expected"]["grad_logits_of_total"], dtype=torch.float64).view(-1, width)
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad * len(alike), expected, **tolerance("bags"))
