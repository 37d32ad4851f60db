"""How good class probabilities are, in the numbers that clinical users report, with their intervals. Needs no torch."""

from mpssl_fed.metrics.points import NAMES, OVERALL, Bin
from mpssl_fed.metrics.predictions import Predictions
from mpssl_fed.metrics.table import ClassMetrics, Metrics, Value, measure
from mpssl_fed.metrics.wilson import wilson

__all__ = ["NAMES", "OVERALL", "Bin", "ClassMetrics", "Metrics", "Predictions", "Value", "measure", "wilson"]
