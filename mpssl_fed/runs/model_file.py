"""The trained classifier as one file that says of itself what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open

from mpssl_fed.config.section import Closed
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.errors import UserError, flag
from mpssl_fed.files import parse_json, read_text, readable
from mpssl_fed.models import Architecture, Classifier, build_classifier
from mpssl_fed.models.backbones import BODIES
from mpssl_fed.models.efficientnet import EfficientNetLite0
from mpssl_fed.models.timm_body import TimmBody
from mpssl_fed.runs.reader import MODEL, refuse_half_cleared

HUB_CONFIG, HUB_TYPE = "config.json", "mpssl-fed"
"""Of a folder in the hub's form, which ``export --format hub`` writes: its second file, and what that says it is."""


class SavedArchitecture(Closed):
    """What a model file may say of its classifier (``Classifier.architecture``): nothing that opens a path or takes much memory."""

    name: str = Field(pattern=r"^(timm/)?[A-Za-z0-9][A-Za-z0-9_.+-]{0,95}$")
    classes: tuple[Annotated[str, Field(max_length=1024)], ...] = Field(min_length=1, max_length=100_000)
    channels: Literal[1, 3]
    size: int = Field(ge=8, le=1024)
    norm: Literal["group", "batch", "frozen"] = "group"
    trainable: Literal["all", "norm", "head"] = "all"
    share_frozen: bool = False
    weights_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="Of the ImageNet weights that it began from.")

    def build(self) -> Classifier:
        """Return the classifier, to load a state dict into."""
        classifier = build_classifier(Architecture(**self.model_dump(exclude={"weights_sha256"})), blank=True)
        if isinstance(classifier.body, EfficientNetLite0 | TimmBody):
            classifier.body.weights_sha256 = self.weights_sha256
        return classifier


def read_model(path: Path) -> Classifier:
    """Return the classifier in the run directory, folder of the hub's form or file ``path``, in eval mode. UserError when there is
    none, or the folder's config.json is of another model.

    The file may be anybody's: what its header says is held against :class:`SavedArchitecture`, and the shapes of its tensors
    against those of that classifier, before anything is allocated.
    """
    file = readable(_file(path))
    try:
        with safe_open(file, framework="pt") as content:
            architecture = SavedArchitecture.model_validate_json(content.metadata()["architecture"], strict=True)
            _require_same(file.parent / HUB_CONFIG, content.metadata()["architecture"])
            _require_fit(architecture, {key: tuple(content.get_slice(key).get_shape()) for key in content.keys()})  # noqa: SIM118
            state = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
        classifier = architecture.build()
        classifier.load_state_dict(state)
    except ValidationError as error:
        raise UserError(f"{file}: not a model of this toolkit: {_what(error)}") from error
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{file}: not a model of this toolkit: {error}") from error
    broken = [key for key, value in state.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f"{file}: weights that are not finite in {', '.join(broken[:3])}; training diverged or the file is damaged")
    return classifier.eval()


def _require_fit(architecture: SavedArchitecture, shapes: dict[str, tuple[int, ...]]) -> None:
    if shapes.get("head.weight", ())[:1] != (len(architecture.classes),):
        raise ValueError(f"{len(architecture.classes)} classes, but head.weight is {list(shapes.get('head.weight', ()))}")
    if BODIES.is_plugin(architecture.name):  # other people's code need not run without data
        return
    with torch.device("meta"):
        wanted = {key: tuple(value.shape) for key, value in architecture.build().state_dict().items()}
    wrong = sorted(wanted.keys() ^ shapes.keys()) or [key for key in wanted if wanted[key] != shapes[key]]
    if wrong:
        raise ValueError(f"its tensors are not those of '{architecture.name}': {', '.join(wrong[:3])}")


def _what(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"architecture.{'.'.join(map(str, fault['loc']))}={fault['input']!r:.80}: {fault['msg']}"


def read_preparation(path: Path) -> Preparation | None:
    """Return how an image file becomes the input of the model in ``path``; None for a file of a version that did not say.

    UserError when there is no model, or it says what this version does not understand.
    """
    file = readable(_file(path))
    try:
        with safe_open(file, framework="pt") as content:
            text = content.metadata().get("preparation")
        return None if text is None else Preparation.from_json(text)
    except (SafetensorError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: not a model of this version of the toolkit: {error}") from error


def _require_same(config: Path, architecture: str) -> None:
    """Raise UserError where ``config`` is a config.json of ours that tells of another classifier than the weights beside it."""
    try:
        said = parse_json(read_text(config)) if config.is_file() else {}
    except ValueError as error:
        raise UserError(f"{config}: no readable JSON ({error}); fetch it again, or take {MODEL} out of the folder") from error
    if not isinstance(said, dict) or said.get("model_type") != HUB_TYPE:
        return
    if said.get("architecture") != parse_json(architecture):
        raise UserError(
            f"{config}: its architecture is not that in the header of {MODEL} beside it; one of the two is another model's"
        )


def snapshot_of(path: Path) -> Path:
    """Return ``path``; of a model's folder in the hub's cache (``models--OWNER--NAME``) the snapshot that main names."""
    main = path / "refs" / "main"
    if not main.is_file() or not (path / "snapshots").is_dir():
        return path
    name = read_text(main).strip()
    if not name.isalnum():
        raise UserError(f"{main}: '{name:.80}' is no name of a snapshot; fetch the model again")
    return path / "snapshots" / name


def _file(path: Path) -> Path:
    path = snapshot_of(path)
    file = path / MODEL if path.is_dir() else path
    refuse_half_cleared(file.parent)
    if not file.is_file():
        raise UserError(
            f"{file}: no such file. A run has it when its last round is done; {flag('resume')} finishes an interrupted one"
        )
    return file
