"""Training: images per second of the benchmark's loop, and of torchvision's Mask R-CNN in its reference's."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from benchmark.annotations import read_annotations
from benchmark.detectors import build_detector
from benchmark.images import TrainImages, load
from benchmark.recipes import find_run
from benchmark.recipes.catalog import detector_presets
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.models import Run, Synthetic
from benchmark.sampling import ImageStream, StreamBatches
from benchmark.steps import dataset_files, made_dataset
from benchmark.training import StageJob, run_stage
from benchmark.training.stages import read_training_data

from .measuring import ROOT, table

WARM_UP, MEASURED = 10, 20  # iterations
CASES: dict[str, list[dict[str, Any]]] = {
    "cpu": [{"preset": "torchvision/tiny_mask_rcnn", "edge": 160, "batch": 4, "workers": 0}],
    "dry": [{"preset": "torchvision/tiny_mask_rcnn", "edge": 64, "batch": 2, "workers": 0}],  # of tests.gpu
    "cuda": [
        {
            "preset": "torchvision/mask_rcnn_r50_fpn",
            "edge": 800,
            "batch": 16,
            "workers": 12,
            "categories": 1203,
            "precision": precision,
        }
        for precision in ("fp32", "bf16-mixed")
    ],
}
TEXT = """\
## Training beside torchvision's reference

Images per second of a whole training: the benchmark's loop (`longtail train`, with its sampler, log, checks
for divergence and checkpoints), and torchvision's own `MaskRCNN` of the same trunk and sizes, trained as its
reference script does: loss, backward, step. The same images at the same sizes, from the same data loader with
as many processes; AdamW, a softmax classifier. Means over {measured} iterations after {warm_up}, on
{device}.

{rates}
torchvision resizes images inside its model, here by 1. GPU rows appear where there is a GPU.
"""


def run_of(case: dict[str, Any]) -> Run:
    """The smoke experiment's softmax model, with the detector and schedule of a case."""
    edges = {"train_short_edges": [case["edge"]], "test_short_edge": case["edge"], "long_edge": case["edge"]}
    settings = dict(detector_presets()[case["preset"]].settings) | edges | {"init": "none"}
    run = find_run("smoke:softmax")
    (stage,) = run.stages
    assert stage.schedule is not None
    schedule = stage.schedule.model_copy(
        update={
            "iterations": WARM_UP + MEASURED,
            "reference_batch_size": case["batch"],
            "checkpoint_every": 10 * MEASURED,
            "precision": case.get("precision", "fp32"),
        }
    )
    sizes = Synthetic(train_images=200, val_images=12, image_size=case["edge"], categories=40, seed=0)
    if "categories" in case:
        number = case["categories"]
        sizes = Synthetic(
            train_images=240, val_images=201, image_size=480, categories=number, counts="lvis_v1", seed=0
        )
    return run.model_copy(
        update={
            "dataset": run.dataset.model_copy(update={"synthetic": sizes, "categories": sizes.categories}),
            "detector": DetectorSettings(**settings),
            "detector_name": case["preset"],
            "stages": [stage.model_copy(update={"schedule": schedule})],
        }
    )


def ours(run: Run, case: dict[str, Any]) -> float:
    """Images per second that the log of a training shows, without the lines of the warm-up."""
    output = Path("ours") / "checkpoint.pt"
    files = dataset_files(run.dataset)
    run_stage(StageJob(run, "train", files, output, init=None), devices=1, workers=case["workers"])
    lines = [json.loads(line) for line in (output.parent / "progress.jsonl").read_text().splitlines()]
    rates = [line["images_per_second"] for line in lines if line["iteration"] > WARM_UP]
    return len(rates) / sum(1 / rate for rate in rates)


def reference_model(run: Run) -> nn.Module:
    """torchvision's Mask R-CNN with the benchmark's trunk."""
    settings = run.detector
    _, statistics = read_training_data(run, dataset_files(run.dataset))
    trunk = build_detector(run, statistics).backbone
    anchors = AnchorGenerator(
        tuple((size,) for size in settings.anchor_sizes), ((0.5, 1.0, 2.0),) * len(settings.anchor_sizes)
    )
    width, classes = settings.box_head_width, statistics.num_classes + 1
    return MaskRCNN(
        trunk,
        min_size=settings.train_short_edges[0],
        max_size=settings.long_edge,
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_train=settings.rpn_train_candidates,
        rpn_post_nms_top_n_train=settings.rpn_train_proposals,
        rpn_batch_size_per_image=settings.rpn_samples,
        box_batch_size_per_image=settings.roi_samples,
        box_head=TwoMLPHead(settings.fpn_channels * 49, width),
        box_predictor=FastRCNNPredictor(width, classes),
        mask_head=MaskRCNNHeads(settings.fpn_channels, [settings.mask_channels] * settings.mask_layers, 1),
        mask_predictor=MaskRCNNPredictor(settings.mask_channels, settings.mask_channels, classes),
    )


class WithBitmaps(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Square training images as torchvision takes them, with bitmaps for masks."""

    def __init__(self, data: TrainImages) -> None:
        self.data = data

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        image, target = self.data[key].on(torch.device("cpu"))
        assert target is not None
        assert target.masks is not None
        height, width = image.shape[1:]
        whole = torch.tensor([[0.0, 0, width, height]]).expand(len(target.labels), 4)
        masks = target.masks.targets(whole, torch.arange(len(whole)), height) >= 0.5
        return image, {"boxes": target.boxes, "labels": target.labels + 1, "masks": masks.byte()}


def batches(run: Run, case: dict[str, Any], device: torch.device) -> Iterator[tuple[list[Tensor], list[Any]]]:
    """Images and targets in torchvision's form, in the order of the benchmark's loop."""
    files = dataset_files(run.dataset)
    data = TrainImages(read_annotations(files.train), files.train_images, run.detector, 0, masks=True)
    stream = ImageStream(torch.ones(len(data)).numpy(), 0)
    order = StreamBatches(stream, case["batch"], 0, WARM_UP + MEASURED)
    loaded = load(WithBitmaps(data), batch_sampler=order, collate_fn=list, num_workers=case["workers"])
    for pairs in loaded:
        yield (
            [image.to(device) for image, _ in pairs],
            [{name: part.to(device) for name, part in target.items()} for _, target in pairs],
        )


def theirs(run: Run, case: dict[str, Any], device: torch.device) -> float:
    """Images per second of torchvision's model in a plain loop."""
    model = reference_model(run).to(device).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    bf16 = case.get("precision") == "bf16-mixed"

    def step(images: list[Tensor], targets: list[Any]) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = torch.stack(list(model(images, targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # the reference stops where it is not finite

    return rate_of(step, batches(run, case, device), case, device)


def rate_of(
    step: Callable[[list[Tensor], list[Any]], None],
    loaded: Iterator[tuple[list[Tensor], list[Any]]],
    case: dict[str, Any],
    device: torch.device,
) -> float:
    """Images per second of training steps, without those of the warm-up."""
    begin = 0.0
    for iteration, (images, targets) in enumerate(loaded):
        if iteration == WARM_UP:
            _finish(device)
            begin = time.perf_counter()
        step(images, targets)
    _finish(device)
    return MEASURED * case["batch"] / (time.perf_counter() - begin)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def section() -> str:
    """Markdown."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    old = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("Snakefile", "workflows", "methods"):
            (Path(folder) / name).symlink_to(ROOT / name)
        os.chdir(folder)
        try:
            for case in CASES[device.type]:
                own = run_of(case)
                made_dataset(own.dataset)
                rates = ours(own, case), theirs(own, case, device)
                label = f"{case['preset']}, {case['batch']} images of {case['edge']} pixels"
                label += f", {case.get('precision', 'fp32')}"
                rows.append([label, *(f"{rate:.1f}" for rate in rates), f"{rates[0] / rates[1]:.2f}"])
        finally:
            os.chdir(old)
    name = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{torch.get_num_threads()} threads of the CPU"
    )
    return TEXT.format(
        measured=MEASURED,
        warm_up=WARM_UP,
        device=name,
        rates=table(["images/s", "benchmark", "torchvision", "ratio"], rows),
    )
