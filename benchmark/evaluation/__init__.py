"""The metrics of the LVIS and COCO APIs, AP by training counts, AP-fixed, and their uncertainty."""

from benchmark.evaluation.errors import EvaluationError
from benchmark.evaluation.evaluator import Evaluation, Evaluator, evaluate_detections
from benchmark.evaluation.metrics import METRICS, Metric

__all__ = ["METRICS", "Evaluation", "EvaluationError", "Evaluator", "Metric", "evaluate_detections"]
