"""The quickstart notebook runs from top to bottom, with a smaller federation."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.patience import PATIENCE_S

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"
TINY = (
    'overrides = ["federation.sites=2", "federation.rounds=2", "federation.local_steps=3", "data.test_limit=100", "method.batch=8"]'
)


def test_the_quickstart_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = f"import mpssl_fed\n\n{TINY}"
    NotebookClient(notebook, timeout=PATIENCE_S, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    printed = "".join(output.get("text", "") for cell in code for output in cell.outputs)
    pictures = [output.data["image/png"] for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    history = [json.loads(line) for line in (tmp_path / "runs/quickstart/metrics.jsonl").read_text().splitlines()]
    assert f"runs/quickstart: test accuracy {history[-1]['test_accuracy']:.3f}" in printed


def test_it_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
