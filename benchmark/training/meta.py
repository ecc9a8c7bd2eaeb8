"""A method's meta step inside the training loop."""

from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from benchmark.classifiers import Classifier, MetaStep, Rois, VirtualSgd
from benchmark.detectors import Detector, RoIBatch
from benchmark.detectors.interface import head_prefix
from benchmark.processes import Team
from benchmark.recipes import load_object
from benchmark.recipes.models import Run, Stage


class MetaTraining:
    """Calls the meta step of a method in every iteration, with the tensors that it needs.

    Args:
        fabric: averages over the processes.
        run: the recipe; its plug-in has the step.
        stage: a stage with ``meta``.
        detector: the detector, on its device.
        optimizer: the optimiser of the classifier, unwrapped.
        team: processes that share a worker's images.
    """

    def __init__(
        self,
        fabric: Fabric,
        run: Run,
        stage: Stage,
        detector: Detector,
        optimizer: torch.optim.Optimizer,
        team: Team,
    ) -> None:
        assert stage.meta is not None
        assert stage.schedule is not None
        self.resample_rois = stage.meta.resample_rois
        self._fabric, self._schedule, self._optimizer = fabric, stage.schedule, optimizer
        self._team = team
        self._classifiers = [cast(Classifier, classifier) for classifier in detector.classifiers]
        step = load_object(stage.meta.function, run.plugin_path)
        self._steps: list[MetaStep] = [step(classifier) for classifier in self._classifiers]

    def step(self, train: list[list[RoIBatch]], meta: list[list[RoIBatch]]) -> dict[str, Tensor]:
        """Call the meta step of every classifier; returns what the method reports, by head in a cascade.

        ``train`` and ``meta`` have an entry for each worker whose images this process has or shares, and in
        it the RoIs of each classifier.
        """
        measured: dict[str, Tensor] = {}
        for number, (step, classifier) in enumerate(zip(self._steps, self._classifiers, strict=True)):
            own, other = (
                [self._of_whole_team(worker[number]) for worker in batch] for batch in (train, meta)
            )
            found = step.step(own, other, self._virtual_sgd(classifier), self._average)
            prefix = head_prefix(number, len(self._steps))
            measured |= {f"{prefix}{name}": value for name, value in found.items()}
        return measured

    def _of_whole_team(self, rois: RoIBatch) -> Rois:
        """The RoIs of a worker, including those of the other processes of the team."""
        features, labels = self._team.gathered(rois.features), self._team.gathered(rois.labels)
        return Rois(torch.cat(features), torch.cat(labels))

    def _virtual_sgd(self, classifier: Classifier) -> VirtualSgd:
        """The SGD step that a classifier would take now; for AdamW, with its learning rate and weight
        decay."""
        state = self._optimizer.state
        buffers = {
            name: state[parameter]["momentum_buffer"]
            for name, parameter in classifier.named_parameters()
            if state.get(parameter, {}).get("momentum_buffer") is not None
        }
        rate = self._optimizer.param_groups[0]["lr"]
        momentum = self._schedule.momentum if self._schedule.optimizer == "sgd" else 0.0
        return VirtualSgd(rate, momentum, self._schedule.weight_decay, buffers)

    def _average(self, value: Tensor) -> Tensor:
        return cast(Tensor, self._fabric.all_reduce(value, reduce_op="mean"))

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints of an unfinished training."""
        return {str(number): step.state_dict() for number, step in enumerate(self._steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        for number, step in enumerate(self._steps):
            step.load_state_dict(state[str(number)])
