"""Errors that end a training early."""

from benchmark.errors import BenchmarkError


class TrainingError(BenchmarkError):
    """A stage cannot run with its recipe or input files."""


class TrainingDivergedError(TrainingError):
    """The loss is not finite or has grown beyond all bounds."""

    state = "diverged"
    exit_code = 1


class TrainingInterruptedError(TrainingError):
    """A signal asked the training to stop; its state is saved and the same command continues."""

    state = "interrupted"
    exit_code = 3
