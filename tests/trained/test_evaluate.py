"""evaluate: equals the run's own test accuracy, and its statistics equal independent formulas."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import mpssl_fed
from mpssl_fed.errors import UserError
from mpssl_fed.trained import Trained, evaluate_folder, score
from mpssl_fed.trained.evaluate import wilson

Cli = Callable[..., tuple[int, str, str]]


def test_a_folder_of_the_test_images_gives_the_runs_own_numbers(run: mpssl_fed.Run, trained: Trained, folder: Path) -> None:
    result = evaluate_folder(trained, folder)
    assert result.images == 150
    assert result.accuracy == pytest.approx(run.accuracy, abs=1e-12)
    assert result.loss == pytest.approx(run.history[-1].loss, rel=1e-5)
    assert result.accuracy > 0.3  # it has learnt: chance is 0.1


def test_confusion_recall_and_support_by_hand() -> None:
    logits = torch.tensor([[3.0, 0, 0], [0, 3, 0], [0, 3, 0], [0, 0, 3], [3, 0, 0]])
    result = score(logits, torch.tensor([0, 0, 1, 1, 0]), ("a", "b", "c"))
    assert result.confusion == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert result.recall == {"a": 2 / 3, "b": 1 / 2, "c": None}
    assert result.support == {"a": 3, "b": 2, "c": 0}
    assert result.accuracy == 3 / 5
    assert result.mistakes() == [(1, "a", "b"), (1, "b", "c")]
    top = math.exp(3) / (math.exp(3) + 2)
    assert result.confidence == pytest.approx(top)
    assert result.ece == pytest.approx(abs(top - 3 / 5))
    assert [(row.low, row.high, row.images) for row in result.reliability] == [(0.9, 1.0, 5)]


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 300), k=st.integers(2, 9), bins=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_ece_is_the_definition(n: int, k: int, bins: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, y = rng.normal(0, 3, (n, k)), rng.integers(0, k, n)
    result = score(torch.from_numpy(logits), torch.from_numpy(y), [str(i) for i in range(k)], bins, resamples=0)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    top, right = p.max(1), p.argmax(1) == y
    ece = 0.0
    for b in range(bins):
        inside = (top > b / bins) & (top <= (b + 1) / bins)
        if inside.any():
            ece += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    assert result.ece == pytest.approx(ece, abs=1e-9)
    assert sum(row.images for row in result.reliability) == n
    assert np.sum(result.confusion) == n


@settings(deadline=None)
@given(n=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_inverts_the_score_test(n: int, share: float) -> None:
    """Wilson's formula, as it was computed here before SciPy did."""
    right = round(share * n)
    low, high = wilson(right, n)
    p, z = right / n, stats.norm.isf(0.025)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n * n))
    wanted = (centre - half if right else 0.0, centre + half if right < n else 1.0)
    assert (low, high) == pytest.approx(wanted, abs=1e-9)
    assert 0 <= low <= right / n <= high <= 1


def test_an_unknown_class_folder_is_named(trained: Trained, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "3", tmp_path / "3")
    shutil.copytree(folder / "4", tmp_path / "four")
    with pytest.raises(UserError, match=r"'four' is not a class of this task.*Classes: 0, 1"):
        evaluate_folder(trained, tmp_path)


def test_folders_without_images(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"folder {tmp_path} has no image"):
        evaluate_folder(trained, tmp_path)
    with pytest.raises(UserError, match=f"folder {tmp_path / 'none'} does not exist"):
        evaluate_folder(trained, tmp_path / "none")


def test_some_classes_only_and_subject_folders(trained: Trained, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "3", tmp_path / "3" / "patient-1")
    result = evaluate_folder(trained, tmp_path, subjects="parent")
    assert result.images == result.support["3"] == len(list((folder / "3").iterdir()))
    assert result.recall["4"] is None
    assert result.recall["3"] == result.accuracy
    with pytest.raises(UserError, match="one folder too deep"):
        evaluate_folder(trained, tmp_path)


def test_the_command_prints_and_dumps_the_same(cli: Cli, run: mpssl_fed.Run, trained: Trained, folder: Path) -> None:
    result = evaluate_folder(trained, folder)
    status, text, _ = cli("evaluate", run.folder, folder)
    assert status == 0
    assert f"150 images: accuracy {result.accuracy:.4f} (95 % interval" in text
    assert f"expected calibration error {result.ece:.4f}" in text
    status, text, _ = cli("evaluate", run.folder, folder, "--json")
    assert (status, json.loads(text)["confusion"]) == (0, result.confusion)
    status, _, error = cli("evaluate", run.folder, run.folder)
    assert status == 2
    assert "is not a class of this task" in error
