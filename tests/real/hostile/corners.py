"""Requests that a site takes though every number lies at an end of its range: alone, and all at once."""

from __future__ import annotations

from typing import Any

Changes = dict[str, Any]

SOURCE: Changes = {"model.name": "small-cnn", "method.name": "mp-ssl", "method.lambda": 1, "method.batch": 4}
SOURCE |= {"method.lmo_batch": 4, "method.lmo_every": 1}
NOW: Changes = SOURCE | {"method.warmup": 0}
LARGE: Changes = {
    "method.lambda": 100,
    "method.gap.weight": 100,
    "method.latent.mapper_lr": 1,
    "method.latent.converter_lr": 10,
    "method.latent.temperature": 0.05,
    "method.latent.hidden": 2048,
    "method.look_ahead": 10,
    "optim.weight_decay": 0.1,
    "federation.strategy.name": "fedprox",
    "federation.strategy.proximal_mu": 10,
}
SMALL: Changes = {
    "method.lambda": 5e-324,
    "method.gap.weight": 5e-324,
    "method.latent.mapper_lr": 1e-6,
    "method.latent.converter_lr": 1e-6,
    "method.latent.temperature": 20,
    "method.latent.hidden": 1,
    "method.look_ahead": 1e-6,
    "optim.lr": 1e-6,
    "generator.truncation": 1,
}

CORNERS: dict[str, Changes] = {
    "steps of 10": {"optim.lr": 10},
    "steps of 1e-6": {"optim.lr": 1e-6},
    "AdamW, steps of 10": {"optim.name": "adamw", "optim.lr": 10, "optim.betas": [0, 0.9999]},
    "AdamW, no memory": {"optim.name": "adamw", "optim.betas": [0, 0], "optim.lr": 1},
    "momentum, all at the end": {
        "optim.name": "momentum",
        "optim.momentum": 0.999,
        "optim.nesterov": True,
        "optim.weight_decay": 0.1,
        "federation.local_steps": 5,
    },
    "warm-up of 100,000 steps": {"optim.warmup_steps": 100_000},
    "seed of 63 bits": {"seed": 2**63 - 1},
    "32 threads": {"runtime.threads": 32},
    "a draw of few": {"privacy.sample_rate": 0.1},
    "delta of 1e-14": {"privacy.delta": 1e-14, "privacy.epsilon": 2},
    "a public size of one": {"privacy.public_size": 1},
    "a public size that is huge": {"privacy.public_size": 9_999},
    "sigma ratio of 100": NOW | {"privacy.sigma_feature_ratio": 100, "privacy.epsilon": 2},
    "sigma ratio at its least": NOW | {"privacy.sigma_feature_ratio": 1, "privacy.epsilon": 1},
    "meta release on all of the body": NOW | {"privacy.meta_params": "all", "privacy.per_class_gap": True},
    "norms alone": {"model.name": "small-cnn", "model.trainable": "norm"},
    "head alone": {"model.name": "small-cnn", "model.trainable": "head"},
    "body from the server": {"model.name": "small-cnn", "model.trainable": "head", "warm_start.part": "body"},
    "HOG": {"model.name": "hog"},
    "a random network": {"model.name": "random"},
    "batches of two": NOW | {"method.batch": 2, "method.lmo_batch": 2, "method.buffer": 1, "method.random_share": 1},
    "all that is large at once": NOW | LARGE,
    "all that is small at once": NOW | SMALL,
    "warm-up that is denormal": SOURCE | {"method.warmup": 5e-324, "federation.local_steps": 2},
    "half the bits": NOW | {"runtime.autocast": "bf16"},
    "thresholds at their ends": {
        "model.name": "small-cnn",
        "method.name": "naive-gssl",
        "method.lambda": 1,
        "method.batch": 4,
        "method.freematch.ema": 0,
        "method.freematch.fixed_threshold": 0,
        "method.freematch.temperature": 0.05,
        "method.freematch.fairness": 10,
    },
    "an anchor of two images": {
        "model.name": "small-cnn",
        "federation.anchor.weight": 100,
        "federation.anchor.temperature": 0.1,
        "federation.anchor.images": 2,
        "federation.anchor.batch": 512,
    },
    "pseudo-labels": {"model.name": "small-cnn", "method.name": "p-ssl", "method.lambda": 1, "method.batch": 4},
    "numbers as words": {"optim.lr": "1.0", "federation.rounds": "1", "privacy.epsilon": "0.5"},
    "numbers as floats": {"federation.rounds": 1.0, "seed": 3.0},
    "minus zero": {"optim.weight_decay": -0.0, "optim.momentum": -0.0},
    "names of half a character": {"federation.strategy.name": "\ud800", "output.dir": "\ud800"},
    "what a site ignores": {
        "output.dir": "/etc",
        "output.overwrite": True,
        "data.partition.name": "a_plug_in",
        "data.partition.options": {"x": ["\u202e", {"y": "\n"}]},
        "federation.max_examples": 1_000_000_000,
    },
}

NOT_BUILT: dict[str, tuple[Changes, str]] = {
    "slices of a loss that compares": (NOW | {"method.name": "vic-gssl", "method.micro_batch": 2}, "config"),
    "slices of InfoNCE": (
        NOW | {"method.name": None, "method.source": "meta-optimised", "method.loss": "infonce", "method.micro_batch": 2},
        "config",
    ),
    "a bank of meta-optimised images": (NOW | {"method.bank": 100}, "config"),
    "a truncation that the generator has not": (NOW | {"generator.truncation": 0.05}, "config"),
    "another task": ({"data.task.classes": [str(9 - digit) for digit in range(10)]}, "classes"),
    "a class more": ({"data.task.classes": [str(digit) for digit in range(11)]}, "classes"),
    "another size": ({"data.task.size": 28}, "image-shape"),
    "stored larger": ({"data.task.stored_size": 64}, "image-shape"),
    "colour": ({"data.task.channels": 3}, "image-shape"),
    "squashed": ({"data.task.fit": "squash"}, "image-shape"),
    "windowed": ({"data.task.window": {"center": 40, "width": 400}}, "image-shape"),
    "class weights": ({"privacy.class_weights": [1.0] * 10}, "site-key"),
    "fast noise": ({"privacy.noise": "fast"}, "noise"),
    "a model of 25 million": ({"model.name": "resnet50"}, "model-size"),
    "a sigma below the policy's": ({"privacy.epsilon": 99}, "sigma"),
}  # fmt: skip
"""What no schema refuses, and no site trains; nothing is charged."""
