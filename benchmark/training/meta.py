"""A method's meta step inside the training loop."""

from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from benchmark.classifiers import Classifier, MetaStep, Rois, VirtualSgd
from benchmark.detectors import Detector, RoIBatch
from benchmark.recipes import load_object
from benchmark.recipes.models import Run, Stage


class MetaTraining:
    """Hands a method's meta step what it needs in every iteration.

    Args:
        fabric: averages over the processes.
        run: the recipe; its plug-in has the step.
        stage: one with ``meta``.
        detector: on its device.
        optimizer: of the classifier, unwrapped.
    """

    def __init__(
        self, fabric: Fabric, run: Run, stage: Stage, detector: Detector, optimizer: torch.optim.Optimizer
    ) -> None:
        assert stage.meta is not None
        assert stage.schedule is not None
        self.resample_rois = stage.meta.resample_rois
        self._fabric, self._schedule, self._optimizer = fabric, stage.schedule, optimizer
        self._classifier = cast(Classifier, detector.classifiers[0])
        self._step: MetaStep = load_object(stage.meta.function, run.plugin_path)(self._classifier)

    def step(self, train: RoIBatch, meta: RoIBatch) -> dict[str, Tensor]:
        """Take the step; returns what the method reports."""
        return self._step.step(
            Rois(train.features, train.labels),
            Rois(meta.features, meta.labels),
            self._virtual_sgd(),
            self._average,
        )

    def _virtual_sgd(self) -> VirtualSgd:
        """The SGD step that the classifier would take now; of AdamW, rate and weight decay are taken."""
        state = self._optimizer.state
        buffers = {
            name: state[parameter]["momentum_buffer"]
            for name, parameter in self._classifier.named_parameters()
            if state.get(parameter, {}).get("momentum_buffer") is not None
        }
        rate = self._optimizer.param_groups[0]["lr"]
        momentum = self._schedule.momentum if self._schedule.optimizer == "sgd" else 0.0
        return VirtualSgd(rate, momentum, self._schedule.weight_decay, buffers)

    def _average(self, value: Tensor) -> Tensor:
        return cast(Tensor, self._fabric.all_reduce(value, reduce_op="mean"))

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints of an unfinished training."""
        return self._step.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._step.load_state_dict(state)
