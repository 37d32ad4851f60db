"""The card of a trained model: README.md with the field names of Hugging Face's model cards, beside model.safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mpssl_fed.dossier.facts import Fact, Section, Source, absent, of_table, word
from mpssl_fed.dossier.flow import settings
from mpssl_fed.dossier.markdown import section_lines, table_lines
from mpssl_fed.dossier.published import quote
from mpssl_fed.dossier.subject import Subject
from mpssl_fed.dossier.weights import Header
from mpssl_fed.runs.reader import CONFIG, METRICS
from mpssl_fed.runs.written import CARD_MARK, is_card

MISSING = "[More Information Needed]"
"""Hugging Face's own words for what nobody has filled in."""

HYPERPARAMETERS = (
    "seed",
    "optim",
    "method",
    "federation.rounds",
    "federation.local_steps",
    "federation.strategy.name",
    "warm_start.part",
)
MEASURED = {
    "test_accuracy": ("accuracy", "accuracy"),
    "test_balanced_accuracy": ("balanced_accuracy", "balanced accuracy"),
    "test_auroc": ("roc_auc", "AUROC"),
    "test_loss": ("loss", "mean cross-entropy"),
}


def card(subject: Subject, model: Header, privacy: Section) -> str:
    """Return the card of a finished run's model. privacy: the dossier's section on epsilon."""
    front = yaml.safe_dump(_front(subject), sort_keys=False, allow_unicode=True)
    data = subject.config["data"]["name"]
    parts = [
        f"---\n{front}---\n{CARD_MARK}\n\n# Model card: {subject.config['model']['name']} on {data}\n",
        "## Model Details\n\n### Model Description\n",
        *table_lines(_description(model)),
        "\n- **Developed by:** " + MISSING + "\n- **License:** " + MISSING,
        f"\n## Uses\n\n### Direct Use\n\n{MISSING}\n\n### Out-of-Scope Use\n\n{MISSING}",
        f"\n## Bias, Risks, and Limitations\n\n{MISSING}\n",
        *section_lines(Section("", "", (), (), (quote("What is not protected"),)), level=0),
        "\n## How to Get Started with the Model\n\n```console\nmpssl-fed predict . IMAGES\n```",
        "\n## Training Details\n\n### Training Data\n",
        *table_lines(subject.marked(settings(subject))),
        "\n#### Training Hyperparameters\n",
        *table_lines(subject.marked(of_table(CONFIG, subject.config, {key: key for key in HYPERPARAMETERS}))),
        "\n#### Privacy\n",
        *section_lines(Section("", privacy.note, privacy.facts), level=0),
        "\n## Evaluation\n\n### Testing Data, Factors & Metrics\n",
        *table_lines(_measured(subject)),
        f"\n## Environmental Impact\n\n{MISSING}",
        "\n## Citation\n\n- MP-SSL: arXiv 2309.16143",
        f"\n## Model Card Contact\n\n{MISSING}\n",
    ]
    return "\n".join(parts)


def may_write(file: Path) -> bool:
    """Whether nothing lies at ``file``, or a card of this command's; a README of the user's own stays."""
    return not file.exists() or is_card(file)


def _front(subject: Subject) -> dict[str, Any]:
    data = str(subject.config["data"]["name"])
    tags = ["image-classification", "federated-learning"]
    if subject.config["privacy"]["scope"] == "end-to-end":
        tags.append("differential-privacy")
    metrics = [
        {"type": kind, "value": value, "name": f"{name}, {_held_out(subject)} images"}
        for key, (kind, name) in MEASURED.items()
        if (value := _last(subject).get(key)) is not None
    ]
    result = {"task": {"type": "image-classification"}, "dataset": {"name": data, "type": data}, "metrics": metrics}
    return {
        "license": "unknown",
        "library_name": "mpssl-fed",
        "pipeline_tag": "image-classification",
        "tags": tags,
        "datasets": [data],
        "metrics": [one["type"] for one in metrics],
        "model-index": [{"name": str(subject.manifest.get("run_id", subject.path.name)), "results": [result]}],
    }


def _description(model: Header) -> list[Fact]:
    facts = [Fact("parameters", word(model.parameters), Source(model.file, "parameters"))]
    facts.append(Fact("SHA-256", model.sha256, Source(model.file, "sha256")))
    facts += [Fact(key, word(value), Source(model.file, f"architecture.{key}")) for key, value in model.architecture.items()]
    return facts


def _measured(subject: Subject) -> list[Fact]:
    last = _last(subject)
    facts = [
        Fact(f"{name}, {_held_out(subject)} images, last round", word(last[key]), Source(METRICS, f"last.{key}"))
        for key, (_, name) in MEASURED.items()
        if last.get(key) is not None
    ]
    return facts or [absent("metrics", "the last round was not evaluated")]


def _last(subject: Subject) -> dict[str, Any]:
    return subject.rounds[-1].to_json() if subject.rounds else {}


def _held_out(subject: Subject) -> str:
    return subject.run.held_out if subject.rounds else "test"
