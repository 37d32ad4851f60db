"""Sections that say what is learnt from what: one class a section, one line a key, with its range and meaning."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mpssl_fed.config.marks import AT_SERVER, NO_PATH, OFF_ALONE, PRICED, PUBLIC, RELEASED, WORK, Marks, ignored, server, site
from mpssl_fed.config.section import Section
from mpssl_fed.errors import nearest

METHODS: dict[str, tuple[str, str]] = {
    "base": ("none", "none"),
    "base-train-only": ("none", "none"),
    "naive-gssl": ("random", "freematch"),
    "p-ssl": ("pseudo-label", "freematch"),
    "mp-ssl-wo-scr": ("meta-optimised", "freematch"),
    "mp-ssl-wo-lmo": ("random", "scr"),
    "mp-ssl": ("meta-optimised", "scr"),
    "ssl-real": ("real", "freematch"),
    "vic-gssl": ("random", "vicreg"),
    "mp-ssl+": ("meta-optimised", "vicreg"),
    "generator-only": ("none", "none"),
    "fedprox": ("none", "none"),
    "linear-random": ("none", "none"),
    "linear-pixels": ("none", "none"),
    "linear-hog": ("none", "none"),
    "federated-gssl": ("none", "none"),
}
"""Method name -> (source of the unsupervised batch, unsupervised loss); docs/design.md, section 3."""

CONTROLS: dict[str, dict[str, dict[str, Any]]] = {
    "base-train-only": {"method": {"hold_out": True}},
    "generator-only": {"warm_start": {"part": "both"}},
    "fedprox": {"federation": {"strategy": {"name": "fedprox"}}},
    "linear-random": {"model": {"name": "random", "pretrained": None}},
    "linear-pixels": {"model": {"name": "pixels", "pretrained": None}},
    "linear-hog": {"model": {"name": "hog", "pretrained": None}},
}
"""Control -> what its name says beside source and loss. `base` with the proximal term, or as a linear head on frozen features
of a random network, on raw pixels or on HOG; `generator-only` asks no site and is what the public generator alone teaches;
`base-train-only` leaves out of training the images that the other methods keep for validation."""

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "federated-gssl": {"warm_start": {"part": "auto"}, "federation": {"anchor": {"weight": 0.3}}},
}
"""Recipe -> what its name says beside source and loss, unless the config says how else. `federated-gssl`, not the paper's, is what
was best on validation images where sites hold different classes (benchmarks/results/recipe-tuning.md): the public generator's
images warm-start the body, and the head where they show the task's classes, and hold sites together through the anchor; no loss of
a site's own is asked of them."""

BUNDLES = CONTROLS | RECIPES
"""Method name -> the keys of other sections that it sets."""

METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "mp-ssl+": {"buffer": 30, "random_share": 0.5},
}
"""Method name -> what its other keys of the method section are unless set, nested as in YAML. `mp-ssl+`, not the paper's, is the
best form of meta-optimised samples that was found, a large buffer half of which has random latents."""

MODELS = ("small-cnn", "resnet18", "resnet50", "efficientnet-lite0", "pixels", "hog", "random")
"""Classifiers that this package builds; a plug-in's is one that a site's owner may add to its policy."""

LAMBDA = {"none": 0.0}
"""Default weight of each unsupervised loss that wants another one than 1. SCR at 5 helps 300 steps at one site and collapses
in 90 steps at four (benchmarks/results); the paper's value is not known."""


class GeneratorSection(Section):
    """The frozen public generator."""

    marks: ClassVar[Marks] = {
        "name": server("listed by name and SHA-256", code="generator", owner="generators"),
        "path": site(NO_PATH, code="path", owner="--generator-path", fixed=True),
        "foundation": site(NO_PATH, code="path", fixed=True),
        "truncation": server(PUBLIC, 0.05, 1),
    }

    name: str = Field(
        "glyphs-digits",
        description="glyphs-digits[-vqvae|-diffusion], glyphs-letters, glyphs-broad, biggan-deep-128/256/512, "
        "folder, exported, diffusers, ...",
    )
    path: str | None = Field(None, description="Folder (exported: file) of the generator, where the name alone does not say.")
    foundation: str | None = Field(None, description="p-ssl: file or folder of the foundation classifier, where none is shipped.")
    truncation: float = Field(1.0, gt=0, le=1, description="z is truncation x N(0, 1) cut at 2.")


class Model(Section):
    """The classifier f = h . g."""

    marks: ClassVar[Marks] = {
        "name": server("built from the installed package", words=MODELS),
        "norm trainable": server("which weights are trained and travel"),
        "pretrained": site(NO_PATH, code="path", fixed=True),
    }

    name: str = Field(
        "small-cnn", description="small-cnn, resnet18/50, efficientnet-lite0, pixels, hog, random, timm/NAME, plug-in."
    )
    norm: Literal["group", "batch", "frozen"] = Field(
        "group", description="Normalisation: GroupNorm; batch, BatchNorm, not under DP; frozen, pretrained statistics (timm/NAME)."
    )
    trainable: Literal["all", "norm", "head"] = Field("all", description="all; norm: scales and shifts, and head; head alone.")
    pretrained: str | None = Field(
        None, description="File of weights: a ResNet's (torchvision's), efficientnet-lite0's, timm/NAME's, or cache: timm's own."
    )


class Gap(Section):
    """The feature gap L_gap of the meta-objective."""

    marks: ClassVar[Marks] = {
        "weight": server(RELEASED, 0, 100),
        "per_class balance": server(RELEASED),
    }

    weight: float = Field(1.0, ge=0, description="lambda_gap.")
    per_class: bool = Field(True, description="One mean per class; under differential privacy the gap is global unless planned.")
    balance: bool = Field(True, description="Bring its gradient and that of the validation loss to one norm before lambda_gap.")


class Latent(Section):
    """The mapper M_phi and the label converter I_xi."""

    marks: ClassVar[Marks] = {
        "hidden": server(WORK, 1, 2048),
        "mapper_lr": server(RELEASED, 1e-6, 1),
        "converter_lr": server(RELEASED, 1e-6, 10),
        "temperature": server(RELEASED, 0.05, 20),
        "hard": server(RELEASED),
        "init": server(OFF_ALONE),
        "probes": server(WORK, 2, 64),
    }

    hidden: int = Field(64, ge=1, description="Width of the mapper's hidden layer.")
    mapper_lr: float = Field(2e-2, gt=0, description="Adam step of phi.")
    converter_lr: float = Field(2e-1, gt=0, description="Adam step of xi.")
    temperature: float = Field(0.9, gt=0, description="Gumbel-softmax temperature.")
    hard: bool = Field(True, description="Straight-through one-hot foundation labels.")
    init: Literal["uniform", "closed-form"] = Field(
        "uniform",
        description="Converter at first: all alike, or softmax of minus squared distances of mean features; not under DP.",
    )
    probes: int = Field(8, ge=2, description="Closed form: synthetic images per generator class that its mean feature is taken of.")


class FreeMatch(Section):
    """Constants of FreeMatch (arXiv 2205.07246)."""

    marks: ClassVar[Marks] = {
        "ema": server(RELEASED, 0, 0.99999),
        "fairness": server(RELEASED, 0, 10),
        "fixed_threshold": server(RELEASED, 0, 1),
        "temperature": server(RELEASED, 0.05, 20),
        "hard": server(RELEASED),
    }

    ema: float | None = Field(
        None, ge=0, lt=1, description="Momentum of thresholds and histograms; null: 0.999, less in runs under 20,000 steps."
    )
    fairness: float = Field(0.01, ge=0, description="Weight of the self-adaptive fairness term.")
    fixed_threshold: float | None = Field(None, ge=0, le=1, description="Set: FixMatch with this threshold.")
    temperature: float = Field(0.5, gt=0, description="Sharpening of soft pseudo-labels.")
    hard: bool = Field(True, description="One-hot pseudo-labels.")


class VICReg(Section):
    """Constants of the VICReg loss on raw features."""

    marks: ClassVar[Marks] = {
        "variance covariance": server(RELEASED, 0, 100),
        "target_std": server(RELEASED, 1e-3, 100),
    }

    variance: float = Field(1.0, ge=0, description="Weight of the hinge on each feature's standard deviation.")
    covariance: float = Field(0.04, ge=0, description="Weight of the squared off-diagonal covariance over d.")
    target_std: float = Field(1.0, gt=0, description="Standard deviation below which the hinge acts.")


class Method(Section):
    """Where the unsupervised batch comes from and what is asked of it."""

    marks: ClassVar[Marks] = {
        "name source loss": server("listed", code="method", owner="methods"),
        "augment": server("an augmentation"),
        "lambda_": server(RELEASED, 0, 100),
        "warmup": server(RELEASED, 0, 1),
        "batch lmo_batch micro_batch": server(WORK, 2, 512),
        "buffer": server(WORK, 1, 1000),
        "refresh_every": server(WORK, 1, 100_000),
        "bank": server(WORK, 0, 20_000),
        "random_share": server(PUBLIC, 0, 1),
        "hold_out": server(OFF_ALONE),
        "loss_weights": server(RELEASED, 0.1, 10),
        "relevant": site("says what the owner's classes look like"),
        "lmo_every": server(PRICED, 1, 100_000),
        "look_ahead": server(RELEASED, 1e-6, 10),
        "infonce_temperature": server(RELEASED, 0.01, 10),
        "options": site("options of a plug-in may name files", code="path"),
    }

    name: str | None = Field(None, description="A pair with a name (base, mp-ssl, ...); null: source and loss are given.")
    source: str | None = Field(
        None, description="none, real, random, pseudo-label, meta-optimised, oracle, anti-oracle, closed-form, or a plug-in."
    )
    loss: str | None = Field(None, description="none, scr, scr-stopgrad, infonce, vicreg, freematch, or a plug-in.")
    augment: Literal["none", "weak", "half-strong"] = Field(
        "weak", description="Augmentation of the labelled batch; none: the images as they are."
    )
    lambda_: float = Field(1.0, alias="lambda", ge=0, description="Weight of the unsupervised loss.")
    warmup: float = Field(0.2, ge=0, le=1, description="Share of all steps over which lambda rises from 0.")
    batch: int = Field(48, ge=2, description="Synthetic images in a step.")
    buffer: int = Field(4, ge=1, description="Synthetic batches kept; each step draws from them.")
    refresh_every: int = Field(5, ge=1, description="Steps between new synthetic batches (1 with buffer 1: a new one each step).")
    bank: int = Field(0, ge=0, description="Random sources: this many images made once and drawn from; 0: none.")
    loss_weights: tuple[float, ...] | None = Field(
        None,
        description="Public weight of each class in the loss on labelled images, 0.1 to 10, brought to mean 1; null: alike.",
    )
    random_share: float = Field(0.0, ge=0, le=1, description="Share of the buffer drawn with random z beside the meta-optimised.")
    hold_out: bool | None = Field(
        None, description="Whether training leaves out the validation images; null: where there is an unsupervised loss."
    )
    relevant: dict[str, str] = Field(
        {}, description="Generator class -> task class that it shows, * for any; default: equal names."
    )
    lmo_every: int = Field(5, ge=1, description="Steps between two latent meta-optimisations; none while lambda is 0.")
    lmo_batch: int = Field(24, ge=2, description="Synthetic images in a latent meta-optimisation.")
    micro_batch: int | None = Field(None, ge=2, description="Meta-gradient in slices of so many images, G's of half; null: all.")
    look_ahead: float | None = Field(
        None, gt=0, description="null: look ahead by the optimiser's own next step; a number: by one of plain SGD with this eta."
    )
    gap: Gap = Gap()
    latent: Latent = Latent()
    infonce_temperature: float = Field(0.2, gt=0, description="Temperature of the InfoNCE loss.")
    freematch: FreeMatch = FreeMatch()
    vicreg: VICReg = VICReg()
    options: dict[str, Any] = Field({}, description="Options of a plug-in source or loss.")

    @field_validator("loss_weights")
    @classmethod
    def _within(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and not all(0.1 <= weight <= 10 for weight in weights):
            raise ValueError("want a number from 0.1 to 10 for each class")
        return weights

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, fields: Any) -> Any:
        """Fill source and loss from the name, and lambda from the loss."""
        if not isinstance(fields, dict):
            return fields
        fields = dict(fields)
        name = fields.get("name", None if "source" in fields or "loss" in fields else "mp-ssl")
        fields["name"] = name
        if name is not None and not isinstance(name, str):
            return fields  # the field says what is wrong with it
        if name in METHODS:
            source, loss = METHODS[name]
            for key, value in (("source", source), ("loss", loss)):
                if fields.get(key) not in (None, value):
                    raise ValueError(
                        f"method.name={name} means source={source} and loss={loss}, but {key}={fields[key]} is given; "
                        "set method.name=null for a pair of your own"
                    )
                fields[key] = value
        elif name is not None:
            raise ValueError(f"unknown method.name '{name}'.{nearest(str(name), METHODS)} Known: {', '.join(METHODS)}")
        elif not fields.get("source") or not fields.get("loss"):
            raise ValueError("method.name is null: give both method.source and method.loss")
        if "lambda" not in fields and "lambda_" not in fields:
            fields["lambda"] = LAMBDA.get(str(fields["loss"]), 1.0)
        return _with_defaults(fields, METHOD_DEFAULTS.get(str(name), {}))

    @model_validator(mode="after")
    def _pair(self) -> Method:
        if (self.source == "none") != (self.loss == "none"):
            raise ValueError(f"source={self.source} with loss={self.loss}: either both are none or neither is")
        if self.source == "meta-optimised" and self.hold_out is False:
            raise ValueError(
                "method.hold_out=false with a meta-optimised source would validate on images that it trains on; set it to null"
            )
        return self


def _with_defaults(fields: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return ``fields`` with what they leave out taken from ``defaults``, section by section."""
    filled = defaults | fields
    for key, value in defaults.items():
        if isinstance(value, dict) and isinstance(filled[key], dict):
            filled[key] = _with_defaults(filled[key], value)
    return filled


class Optim(Section):
    """The classifier's optimiser; it starts anew in each round."""

    marks: ClassVar[Marks] = {
        "name nesterov schedule": server(RELEASED),
        "lr": server(RELEASED, 1e-6, 10),
        "momentum": server(RELEASED, 0, 0.999),
        "betas": server(RELEASED, 0, 0.9999),
        "weight_decay": server(RELEASED, 0, 0.1),
        "warmup_steps": server(RELEASED, 0, 100_000),
        "batch_size": server(WORK, 1, 1024),
    }

    name: Literal["sgd", "momentum", "adamw"] = Field("adamw", description="sgd, momentum (0.9 unless set), adamw.")
    lr: float = Field(3e-3, gt=0, description="Step size.")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum alone.")
    nesterov: bool = Field(False, description="momentum alone.")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled for adamw, in the gradient otherwise.")
    betas: tuple[float, float] = Field((0.9, 0.99), description="adamw alone.")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="Over all rounds x local_steps.")
    warmup_steps: int = Field(10, ge=0, description="Linear rise of the step size.")
    batch_size: int | None = Field(None, ge=1, description="Labelled images per step (32 unless set); refused under DP.")

    @field_validator("betas")
    @classmethod
    def _unit(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("want two numbers in [0, 1)")
        return betas


class WarmStart(Section):
    """Training at the server on the public generator alone, before round 1; reads no private byte."""

    marks: ClassVar[Marks] = {
        "part": server("which weights travel; the generator is listed"),
        "steps batch lr class_map without": ignored(AT_SERVER),
    }

    part: Literal["none", "body", "head", "both", "auto"] = Field(
        "none", description="What starts warm; auto: both where each task class is one of the generator's, else body."
    )
    steps: int = Field(200, ge=1, description="Steps of classifying synthetic images.")
    batch: int = Field(64, ge=2, description="Images a step.")
    lr: float = Field(3e-3, gt=0, description="AdamW step size.")
    class_map: dict[str, str] = Field({}, description="Generator class -> task class; default: equal names.")
    without: tuple[str, ...] = Field(
        (), description="Generator classes that the body does not learn, by name or pattern: greek * leaves a script out."
    )

    @property
    def of_body(self) -> bool:
        """Whether the body starts warm, so that all its weights come from the server."""
        return self.part in ("body", "both", "auto")
