"""Metrics, exact on any number of processes; prediction files; pictures of predictions; the HTML report."""

import sys
from types import ModuleType

from rec.evaluation.metrics import breakdown, summarize
from rec.evaluation.run import EvaluationStopped, Evaluator, evaluate
from rec.names import moved

__all__ = ["EvaluationStopped", "Evaluator", "breakdown", "evaluate", "summarize"]

# The old place of rec.evaluation.run. A file of that name would, once imported, stand here in place of the function.
sys.modules[f"{__name__}.evaluate"] = _old = ModuleType(f"{__name__}.evaluate")
vars(_old)["__getattr__"] = moved(_old.__name__, f"{__name__}.run")
