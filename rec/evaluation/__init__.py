"""Metrics, exact on any number of processes; prediction files; pictures of predictions; the HTML report."""

from rec.evaluation.evaluate import EvaluationStopped, Evaluator, evaluate
from rec.evaluation.metrics import breakdown, summarize

__all__ = ["EvaluationStopped", "Evaluator", "breakdown", "evaluate", "summarize"]
