"""What a finished run is good for: predict, evaluate and export its classifier."""

from __future__ import annotations

from mpssl_fed.trained.evaluate import Evaluation, evaluate_folder, evaluate_list, score
from mpssl_fed.trained.export import export
from mpssl_fed.trained.lists import is_list
from mpssl_fed.trained.load import Trained, load_trained
from mpssl_fed.trained.predict import Prediction, predict

__all__ = [
    "Evaluation", "Prediction", "Trained", "evaluate_folder", "evaluate_list", "export", "is_list", "load_trained", "predict",
    "score",
]  # fmt: skip
