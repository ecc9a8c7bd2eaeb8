"""An iteration of BALMS with the meta gradient in closed form, and with ``higher``."""

import gc
import statistics
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import get_args

import higher
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.classifiers import Rois, VirtualSgd, one_hot
from benchmark.sampling import seeded
from methods.balms.classifier import BalancedMeta, MetaLoss
from methods.balms.meta import Reweighting, meta_gradient

from .measuring import alternately, measure, median_ratio, result_of, table
from .steps import DEVICES, clock, lvis_statistics, peak_tensor_megabytes

RATE, MOMENTUM, DECAY = 0.02, 0.9, 1e-4  # of the published classifier retraining
EQUAL, ITERATIONS, PROCESSES = 1e-6, 5, 5

TEXT = """\
## BALMS: the meta gradient in closed form, and through `higher`

One iteration of BALMS' classifier retraining on given RoI features: a virtual SGD step of the classifier with
the current category weights w, the loss of the meta batch at the virtual weights, its gradient by w (the
*meta gradient*), Adam's step on w (up to here the *meta step*), and then SGD on the training batch with the
new w. `methods/balms/meta.py` computes the meta gradient in *closed form*. The released code unrolls the
virtual step with the package `higher` ({higher} here, unchanged) and differentiates twice; its backward pass
also computes a gradient of the classifier that is thrown away, so a column without that is added. All start
alike and get the same random features and labels; a quarter of the proposals is foreground, in the training
batch with the frequencies of LVIS v0.5, in the meta batch with equal ones.

- tiny: {tiny} in a batch
- full: {full} in a batch (LVIS v0.5, 2 images)

**Equal results.** In float64, {iterations} iterations from a fresh optimiser, for both readings of the meta
loss: the largest difference between closed form and `higher` in any entry and iteration, divided by the
largest entry. Of the virtual and the final weights only the matrix is compared.

{equal}
**Time and memory.** In float32, as trained, on one thread. Times are medians of CPU time (on a GPU: of wall
time) over {repetitions}, taken in turns; in brackets the median ratio to the closed form. "Tensors" is the
most memory that tensors made in the step take at once, without features, weights and optimiser state; in
brackets the ratio to the closed form. "Whole process" is the peak resident memory, smallest and largest of
{processes} processes that do {iterations} iterations each; PyTorch itself is most of it. At full size all
three spend most of their time in the same products of large matrices.

{costs}"""


@dataclass(frozen=True)
class Size:
    """Numbers of categories, features, and proposals in a batch."""

    categories: int
    features: int
    proposals: int
    repetitions: int

    def __str__(self) -> str:
        return f"{self.categories} categories, {self.features} features, {self.proposals} proposals"


SIZES = {"tiny": Size(40, 128, 256, repetitions=200), "full": Size(1230, 1024, 1024, repetitions=20)}


class ClosedForm:
    """The training loop's work for BALMS, one iteration at a time."""

    def __init__(self, classifier: BalancedMeta) -> None:
        self.classifier = classifier
        parameters = classifier.linear.parameters()
        self.sgd = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
        self.learner = Reweighting(classifier)

    def virtual(self) -> VirtualSgd:
        """The SGD step that the classifier would take now."""
        state = self.sgd.state
        parameters = self.classifier.named_parameters()
        buffers = {name: state[p]["momentum_buffer"] for name, p in parameters if p in state}
        return VirtualSgd(RATE, MOMENTUM, DECAY, buffers)

    def meta_step(self, train: Rois, meta: Rois) -> None:
        """Virtual step, meta loss, meta gradient, Adam's step on the re-weighter."""
        self.learner.step([train], [meta], self.virtual(), lambda value: value)

    def real_step(self, train: Rois) -> None:
        """SGD on the re-weighted loss of the training batch."""
        self.sgd.zero_grad()
        self.classifier.loss(self.classifier(train.features), train.labels)["loss_cls"].backward()
        self.sgd.step()


class Unrolled(ClosedForm):
    """The same with ``higher``: a differentiable copy of the classifier and of its optimiser."""

    def __init__(self, classifier: BalancedMeta) -> None:
        # higher differentiates by parameters only, and clones buffers without their history
        w = classifier.reweighter
        del classifier.reweighter
        classifier.reweighter = nn.Parameter(w)
        super().__init__(classifier)

    def meta_step(self, train: Rois, meta: Rois) -> None:
        """The released step: its backward pass fills the classifier's gradient too, though nobody uses it."""
        classifier = self.classifier
        with higher.innerloop_ctx(classifier, self.sgd, copy_initial_weights=False) as (model, virtual):
            virtual.step(model.loss(model(train.features), train.labels)["loss_cls"])
            logits = model(meta.features)
            if classifier.meta_loss == "as_released":
                logits = classifier.adjusted(logits, meta.labels)
            targets = one_hot(meta.labels, classifier.num_classes, logits.dtype)
            loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(targets)
            self.learner.adam.zero_grad()
            self.learner.adam.zero_grad()
            self.backward(loss)
        self.learner.adam.step()

    def backward(self, loss: Tensor) -> None:
        """Of the meta loss."""
        loss.backward()


class UnrolledForReweighter(Unrolled):
    """The same without the classifier's gradient."""

    def backward(self, loss: Tensor) -> None:
        """Of the meta loss by the re-weighter."""
        w = self.classifier.reweighter
        (w.grad,) = torch.autograd.grad(loss, w)


IMPLEMENTATIONS = {
    "closed form": ClosedForm,
    "`higher`, as released": Unrolled,
    "`higher`, only the gradient of w": UnrolledForReweighter,
}


def batches(size: Size, dtype: torch.dtype, number: int) -> tuple[Rois, Rois]:
    """A training batch with category frequencies of LVIS, and a meta batch with equal ones."""
    instances = torch.from_numpy(lvis_statistics(size.categories).instance_counts).double()

    def rois(frequency: Tensor) -> Rois:
        labels = torch.full((size.proposals,), size.categories)  # background
        foreground = size.proposals // 4
        labels[:foreground] = torch.multinomial(frequency, foreground, replacement=True)
        return Rois(torch.randn(size.proposals, size.features, dtype=dtype).relu(), labels)

    with seeded(number):
        return rois(instances), rois(torch.ones_like(instances))


def classifier_of(size: Size, dtype: torch.dtype, meta_loss: MetaLoss = "as_released") -> BalancedMeta:
    """A new classifier, always with the same weights."""
    with seeded(0):
        classifier = BalancedMeta(size.features, lvis_statistics(size.categories), meta_loss=meta_loss)
    return classifier.to(dtype)


def differences(size: Size) -> dict[str, float]:
    """The largest difference between both, relative to the largest entry of each quantity; in float64."""
    found: dict[str, float] = {}
    for meta_loss in get_args(MetaLoss):
        closed, unrolled = (
            implementation(classifier_of(size, torch.float64, meta_loss))
            for implementation in (ClosedForm, Unrolled)
        )
        for iteration in range(ITERATIONS):
            train, meta = batches(size, torch.float64, iteration)
            with higher.innerloop_ctx(unrolled.classifier, unrolled.sgd) as (model, virtual):
                virtual.step(model.loss(model(train.features), train.labels)["loss_cls"])
                virtual_weight = model.linear.weight.detach()
            mine = meta_gradient(closed.classifier, train, meta, closed.virtual())
            for training in (closed, unrolled):
                training.meta_step(train, meta)
            gradient = unrolled.classifier.reweighter.grad
            assert gradient is not None
            gradient = gradient.clone()  # the real step adds to it
            for training in (closed, unrolled):
                training.real_step(train)
            for quantity, ours, theirs in (
                ("virtual weights", mine.weight, virtual_weight),
                ("meta gradient", mine.gradient, gradient),
                ("w after Adam", closed.classifier.reweighter, unrolled.classifier.reweighter),
                ("weights after SGD", closed.classifier.linear.weight, unrolled.classifier.linear.weight),
            ):
                relative = float(((ours - theirs).abs().max() / theirs.abs().max()).detach())
                found[quantity] = max(found.get(quantity, 0.0), relative)
    return found


def costs(size: Size, device: str) -> dict[str, list[list[float]]]:
    """Seconds of each repetition, and megabytes, of all implementations; in float32, as in training."""
    train, meta = (
        Rois(rois.features.to(device), rois.labels.to(device)) for rois in batches(size, torch.float32, 0)
    )
    trainings = [
        implementation(classifier_of(size, torch.float32).to(device))
        for implementation in IMPLEMENTATIONS.values()
    ]

    def iteration(training: ClosedForm) -> None:
        training.meta_step(train, meta)
        training.real_step(train)

    def meta_step(training: ClosedForm) -> None:
        training.meta_step(train, meta)

    found = {}
    for part, work in (("iteration", iteration), ("meta step", meta_step)):
        works = [partial(work, training) for training in trainings]
        found[f"seconds of {part}"] = alternately(*works, repetitions=size.repetitions, clock=clock(device))
        memory = found[f"megabytes of {part}"] = []
        for training, step in zip(trainings, works, strict=True):
            training.classifier.zero_grad()
            gc.collect()  # higher leaves graphs in reference cycles
            memory.append([peak_tensor_megabytes(step, device)])
    return found


def iterate(size: Size, implementation: str) -> None:
    """Run some iterations, to measure the memory of a whole process."""
    train, meta = batches(size, torch.float32, 0)
    training = IMPLEMENTATIONS[implementation](classifier_of(size, torch.float32))
    for _ in range(ITERATIONS):
        training.meta_step(train, meta)
        training.real_step(train)


def _cells(values: list[list[float]], unit: str, scale: float) -> list[str]:
    """Median of each implementation, and its ratio to the first."""
    medians = [f"{scale * statistics.median(some):.3g} {unit}" for some in values]
    ratios = [f" ({median_ratio(some, values[0]):.2f})" for some in values[1:]]
    return [median + ratio for median, ratio in zip(medians, ["", *ratios], strict=True)]


def section() -> str:
    """The section as Markdown."""
    equal, rows = [], []
    for name, size in SIZES.items():
        relative = result_of("balms", f"differences(SIZES['{name}'])")
        if max(relative.values()) > EQUAL:
            raise RuntimeError(f"closed form and higher differ ({size}): {relative}")
        equal.append([name, *(f"{value:.0e}" if value else "0" for value in relative.values())])
    for device in DEVICES:
        for name in SIZES:
            found = result_of("balms", f"costs(SIZES['{name}'], '{device}')")
            for part in ("iteration", "meta step"):
                of = f"{part}, {name}{', GPU' if device == 'cuda' else ''}"
                rows.append([f"{of}: time", *_cells(found[f"seconds of {part}"], "ms", 1000)])
                rows.append([f"{of}: tensors", *_cells(found[f"megabytes of {part}"], "MB", 1)])
    runs = [
        [
            measure(f"from tests.performance.balms import *; iterate(SIZES['full'], '{name}')").peak_megabytes
            for _ in range(PROCESSES)
        ]
        for name in IMPLEMENTATIONS
    ]
    rows.append(["whole process, full", *(f"{min(some):.0f} to {max(some):.0f} MB" for some in runs)])
    return TEXT.format(
        tiny=SIZES["tiny"],
        full=SIZES["full"],
        iterations=ITERATIONS,
        processes=PROCESSES,
        repetitions=" or ".join(f"{size.repetitions} repetitions ({name})" for name, size in SIZES.items()),
        higher=version("higher"),
        equal=table(["largest difference", *relative], equal),
        costs=table(["", *IMPLEMENTATIONS], rows),
    )
