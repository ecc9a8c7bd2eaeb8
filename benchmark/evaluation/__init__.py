"""LVIS evaluation: the 13 numbers of the official API and per-category AP."""

from benchmark.evaluation.errors import EvaluationError
from benchmark.evaluation.lvis import Evaluation, evaluate_detections
from benchmark.evaluation.metrics import METRICS, Metric

__all__ = ["METRICS", "Evaluation", "EvaluationError", "Metric", "evaluate_detections"]
