"""The error type of the evaluation."""

from benchmark.errors import BenchmarkError


class EvaluationError(BenchmarkError):
    """Ground truth or detections cannot be evaluated."""
