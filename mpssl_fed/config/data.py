"""Sections that say where a run is written, what it runs on and which labelled images it has."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mpssl_fed.config.marks import AT_SERVER, GIVEN, NO_PATH, OWN_IMAGES, RELEASED, WORK, Marks, ignored, server, site
from mpssl_fed.config.section import Section, own_options

Fit = Literal["crop", "pad", "squash"]
"""How an image that is not square becomes so."""


class Output(Section):
    """Where a run is written."""

    marks: ClassVar[Marks] = {"dir overwrite resume track": ignored(AT_SERVER)}

    dir: str | None = Field(None, description="The run directory itself; default runs/CONFIG-STEM.")
    overwrite: bool = Field(False, description="Delete a run directory that exists.")
    resume: bool = Field(False, description="Continue the run in the run directory.")
    track: tuple[Literal["tensorboard", "mlflow"], ...] = Field(
        (), description="Also tell a run's public numbers to tensorboard and mlflow; the extras of these names."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_word_or_an_older_key(cls, fields: Any) -> Any:
        """Take one tracker without brackets, and ``tensorboard: true``, as version 0.1 wrote it; each tracker once."""
        if not isinstance(fields, dict):
            return fields
        track = fields.get("track", ())
        found = [track] if isinstance(track, str) else list(track) if isinstance(track, tuple) else track
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            return fields  # the field says what is wrong with it
        if "tensorboard" in fields:
            if not isinstance(fields["tensorboard"], bool):
                raise ValueError("key 'tensorboard' is true or false; output.track: [tensorboard] has taken its place")
            found = [*found, "tensorboard"] if fields["tensorboard"] and "tensorboard" not in found else found
        return {**{key: value for key, value in fields.items() if key != "tensorboard"}, "track": list(dict.fromkeys(found))}


class Runtime(Section):
    """What a process uses."""

    marks: ClassVar[Marks] = {
        "device": ignored("the site's --device, else auto"),
        "threads": server(WORK, 1, 32),
        "autocast": server(RELEASED),
    }

    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: cuda, else mps, else cpu.")
    threads: int = Field(1, ge=1, le=256, description="torch threads at a site; the same number gives the same bits.")
    autocast: Literal["off", "bf16"] = Field("off", description="bf16 in first-order passes only; second order stays in float32.")


PARTITION_OPTIONS: dict[str, dict[str, Any]] = {
    "iid": {},
    "column": {},
    "dirichlet": {"alpha": 0.3, "min_per_site": 1},
    "pathological": {"classes_per_site": 2},
    "quantity": {"skew": 1.0, "min_per_site": 1},
}


class Partition(Section):
    """How the labelled pool is split over the sites."""

    marks: ClassVar[Marks] = {"name alpha min_per_site classes_per_site skew options": ignored(OWN_IMAGES)}

    name: str = Field("iid", description="iid, column (of image-csv), dirichlet, pathological, quantity, or a plug-in.")
    alpha: float | None = Field(None, gt=0, description="dirichlet: concentration; small is skewed (default 0.3).")
    min_per_site: int | None = Field(None, ge=0, description="dirichlet, quantity: fewest images per site (default 1).")
    classes_per_site: int | None = Field(None, ge=1, description="pathological: classes per site (default 2).")
    skew: float | None = Field(None, ge=0, description="quantity: exponent of the power law of site sizes (default 1).")
    options: dict[str, Any] = Field({}, description="Options of a plug-in partitioner.")

    @model_validator(mode="before")
    @classmethod
    def _only_its_own(cls, fields: Any) -> Any:
        return own_options(fields, "iid", PARTITION_OPTIONS)

    def given(self) -> dict[str, Any]:
        """Return the partitioner's options that are set, a plug-in's too."""
        return self.model_dump(exclude={"name", "options"}, exclude_none=True) | self.options


class Window(Section):
    """The values of grey DICOM files that become black and white: PS3.3 C.11.2.1.2, LINEAR."""

    marks: ClassVar[Marks] = {"center width": ignored(OWN_IMAGES)}

    center: float = Field(
        description="Of grey DICOM files: middle of the window, in units once rescaled (CT: HU); no window: each file's own."
    )
    width: float = Field(ge=1, description="The same: from black to white.")


class AgreedWindow(Window):
    """The window that sites which hold their own images agree on."""

    marks: ClassVar[Marks] = {"center width": site(GIVEN, code="image-shape", owner="--window")}


def plain(window: Window | None) -> tuple[float, float] | None:
    """Return a window as (center, width)."""
    return None if window is None else (window.center, window.width)


class Task(Section):
    """What sites that hold their own images agree on with the server."""

    marks: ClassVar[Marks] = {
        "classes": site("what the owner's labels mean", code="classes", owner="--classes"),
        "size": site(GIVEN, code="image-shape", owner="--size"),
        "stored_size": site(GIVEN, code="image-shape", owner="--stored-size"),
        "channels": site(GIVEN, code="image-shape", owner="--channels"),
        "flip": server("an augmentation"),
        "fit": site(GIVEN, code="image-shape", owner="--fit"),
    }

    classes: tuple[str, ...] = Field(min_length=2, description="Class names; their order is that of the classifier's outputs.")
    size: int = Field(32, ge=8, le=1024, description="Height and width in pixels that the classifier sees.")
    stored_size: int | None = Field(None, ge=8, le=2048, description="Size that labelled images are kept at; null: size.")
    channels: Literal[1, 3] = Field(3, description="1 grey, 3 colour.")
    flip: bool = Field(False, description="Whether a mirrored image keeps its label.")
    fit: Fit = Field("crop", description="How an image that is not square becomes so.")
    window: AgreedWindow | None = Field(None, description="Of grey DICOM files; null: each file's own.")


class Data(Section):
    """The labelled images of a study; a deployed site reads its own instead."""

    marks: ClassVar[Marks] = {
        "root": site(NO_PATH, code="path", owner="--data", fixed=True),
        "val_fraction": server("scope off alone: what LMO validates on", 0, 0.5),
        "name size fit white_level labels_per_class labels_over label_fraction test_limit unlabeled subjects": ignored(OWN_IMAGES),
        "download held_out held_out_fraction": ignored(AT_SERVER),
    }

    name: str = Field(
        "mnist-5k",
        description="mnist-5k, fashion-mnist, cifar10, medmnist/NAME, omniglot/ALPHABET, hf/NAME, image-folder, image-csv, ...",
    )
    root: str | None = Field(
        None, description="Folder of the data set, for image-csv the file; default: where it is usually found."
    )
    size: int | None = Field(None, ge=8, le=1024, description="Height and width in pixels; default: the data set's own.")
    fit: Fit = Field(
        "crop", description="image-folder, -csv: crop cuts the longer side off, pad adds black, squash changes the aspect ratio."
    )
    white_level: float | None = Field(
        None,
        gt=0,
        description="image-folder, -csv: white in grey files of 16 or 32 bits or floats (12 bits: 4095); null: the type's own.",
    )
    window: Window | None = Field(None, description="image-folder, -csv of grey DICOM files alone; null: each file's own.")
    labels_per_class: int | None = Field(10, ge=1, description="Labelled images per class; null: see label_fraction.")
    labels_over: Literal["site", "all-sites"] = Field(
        "site", description="site: labels_per_class is the mean of one site (times sites in all); all-sites: the total."
    )
    label_fraction: float | None = Field(
        None, gt=0, le=1, description="Labelled share of the pool, where labels_per_class is null."
    )
    val_fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of each class at a site kept for the meta-objective, an image of two at least, half at most; 0: none.",
    )
    held_out: Literal["test", "validation"] = Field(
        "test", description="What is evaluated on: the test set, or (to tune) a slice of the training pool that no site gets."
    )
    held_out_fraction: float = Field(
        0.2, gt=0, lt=1, description="held_out=validation: share of each class of the training pool, the same for every seed."
    )
    test_limit: int | None = Field(None, ge=1, description="Evaluate on the first so many of the shuffled held-out images.")
    unlabeled: int | None = Field(None, ge=1, description="ssl-real: most real unlabeled images per site; null: all of its share.")
    subjects: Literal["parent", "dicom-patient-id"] | None = Field(
        None,
        description="image-folder: who is on an image, by the folder above it, or (-csv too) a DICOM file's patient id.",
    )
    download: bool = Field(False, description="Permit the download of a data set that is not found.")
    partition: Partition = Partition()
    task: Task | None = Field(None, description="Of a deployment; a server with a data set fills it in by itself.")

    @model_validator(mode="before")
    @classmethod
    def _fraction_alone(cls, fields: Any) -> Any:
        """A label fraction without a word on labels_per_class replaces its default."""
        if isinstance(fields, dict) and fields.get("label_fraction") is not None and "labels_per_class" not in fields:
            return {**fields, "labels_per_class": None}
        return fields

    @model_validator(mode="after")
    def _one_budget(self) -> Data:
        if self.labels_per_class is not None and self.label_fraction is not None:
            raise ValueError("labels_per_class and label_fraction are both set; set one of them to null")
        return self
