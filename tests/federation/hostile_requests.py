"""What a hostile server may put into a config, and the code it gets: (keys to set, code). No case needs training."""

from __future__ import annotations

import json
from typing import Any

SHA = "ab" * 32
OWNER: dict[str, Any] = {
    "dataset": "chest",
    "public_size": 1000,
    "max_epsilon": 4,
    "delta": 1e-5,
    "min_sigma": 0.6,
    "max_sample_rate": 0.1,
    "max_rounds": 200,
    "max_local_steps": 200,
    "max_steps": 10_000,
    "methods": ["base", "mp-ssl", "random+scr"],
    "generators": [{"name": "glyphs-digits", "sha256": SHA, "trained_on": "public fonts", "public": True}],
}
"""The policy that refuses them."""

HONEST: dict[str, Any] = {
    "data": {"task": {"classes": ["cat", "dog"], "size": 32, "channels": 3}},
    "method": {"name": "mp-ssl"},
    "federation": {"rounds": 2, "local_steps": 5},
    "privacy": {"epsilon": 2.0, "public_size": 1000, "sample_rate": 0.05},
}
"""The request that it takes, before a key is changed."""

HUGE = 2**31 - 1
"""The largest count that a config may hold at all."""
OTHER_METHOD = {"method.name": None, "method.source": "random", "method.loss": "scr"}
TASK = "data.task."
TIMES = "federation.evaluate_at_sites.times"


def written(fields: dict[str, Any], changes: dict[str, Any]) -> str:
    """Return a config as a hostile server writes it: ``fields`` (Config.dump) with ``changes`` by their dotted keys."""
    fields = json.loads(json.dumps(fields))
    if "method.name" in changes:
        fields["method"] = {key: value for key, value in fields["method"].items() if key not in ("name", "source", "loss")}
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        section = fields
        for parent in parents:
            section[parent] = section.get(parent) or {}
            section = section[parent]
        section[leaf] = value
    return json.dumps(fields).replace('"NaN"', "NaN").replace('"1e999"', "1e999")


Case = tuple[dict[str, Any], str]

CLIPS: list[Case] = [
    ({"privacy.clip.gradient": 1e-30}, "config"),
    ({"privacy.clip.gradient": 1e30}, "config"),
    ({"privacy.clip.gradient": 0.001}, "clip"),
    ({"privacy.clip.gradient": 0.999}, "clip"),
    ({"privacy.clip.meta": 1000}, "clip"),
    ({"federation.rounds": 10**30}, "config"),
    ({"federation.rounds": True}, "config"),
    ({"privacy.epsilon": True}, "config"),
    ({"seed": False}, "config"),
    ({"method.latent.hidden": 10**30}, "config"),
    ({"privacy.clip.meta": 1e-30}, "config"),
    ({"privacy.clip.meta": 1.0000001}, "clip"),
    ({"privacy.clip.feature": 1e-45}, "config"),
    ({"privacy.clip.feature": 1e19}, "config"),
    ({"privacy.clip.gradient": 0}, "config"),
    ({"privacy.clip.gradient": -1}, "config"),
]
PRIVACY: list[Case] = [
    ({"privacy.scope": "off"}, "scope"),
    ({"privacy.scope": "off", "privacy.epsilon": None}, "scope"),
    ({"privacy.scope": "labelled-step"}, "scope"),
    ({"privacy.epsilon": 4.0001}, "epsilon"),
    ({"privacy.epsilon": 1e308}, "epsilon"),
    ({"privacy.epsilon": 1e-300}, "epsilon"),
    ({"privacy.delta": 1.1e-5}, "delta"),
    ({"privacy.delta": 1e-30}, "delta"),
    ({"privacy.delta": 0.9, "privacy.public_size": 1}, "config"),
    ({"privacy.delta": 0.09, "privacy.public_size": 1}, "delta"),
    ({"privacy.unit": "subject"}, "unit"),
    ({"privacy.sample_rate": 0.11}, "sample-rate"),
    ({"privacy.sample_rate": 1e-12}, "sample-rate"),
    ({"privacy.sigma_feature_ratio": 1e-3}, "sigma"),
    ({"privacy.sigma_feature_ratio": 1e300}, "sigma"),
    ({"privacy.noise": "fast"}, "noise"),
    ({"privacy.noise": "none"}, "config"),
    ({"privacy.count_floor": 1e-9}, "site-key"),
    ({"privacy.count_floor": 1.0}, "site-key"),
    ({"privacy.per_unit": "loop"}, "site-key"),
    ({"privacy.max_physical_batch": 1}, "site-key"),
    ({"privacy.max_physical_batch": HUGE}, "site-key"),
    ({"privacy.budget": 1}, "config"),
]
WORK: list[Case] = [
    ({"federation.rounds": 201}, "rounds"),
    ({"federation.rounds": HUGE}, "rounds"),
    ({"federation.local_steps": 201}, "steps"),
    ({"federation.local_steps": HUGE}, "steps"),
    ({"federation.rounds": 101, "federation.local_steps": 100}, "steps"),
    ({"federation.rounds": 0}, "config"),
    ({TIMES: 6, "federation.rounds": 9}, "evaluations"),
    ({TIMES: 200, "federation.rounds": 200}, "evaluations"),
    ({TIMES: HUGE}, "config"),
    ({TIMES: 1, TASK + "classes": [str(n) for n in range(257)]}, "table-size"),
    ({TIMES: 1, TASK + "classes": [str(n) for n in range(60_000)]}, "table-size"),  # a table of 14 GB
    ({TIMES: 3}, "config"),  # two rounds
    ({TIMES: 1, "federation.evaluate_at_sites.held_out": 0.99}, "server-key"),
    ({TIMES: 1, "federation.evaluate_at_sites.held_out": 1e-9}, "server-key"),
    ({TIMES: 1, "federation.evaluate_at_sites.held_out": 1}, "config"),
    ({TIMES: 1, "privacy.sigma_confusion_ratio": 1e-3}, "sigma"),
    ({TIMES: 1, "privacy.sigma_confusion_ratio": 1e300}, "sigma"),
    ({"runtime.threads": 33}, "server-key"),
    ({"method.batch": 513}, "server-key"),
    ({"method.batch": HUGE}, "server-key"),
    ({"method.buffer": HUGE}, "server-key"),
    ({"method.bank": 20_001, **OTHER_METHOD}, "server-key"),
    ({"method.bank": HUGE, **OTHER_METHOD}, "server-key"),
    ({"method.lmo_batch": HUGE}, "server-key"),
    ({"method.micro_batch": HUGE}, "server-key"),
    ({"method.refresh_every": HUGE}, "server-key"),
    ({"method.lmo_every": HUGE}, "server-key"),
    ({"method.latent.hidden": 2049}, "server-key"),
    ({"method.latent.hidden": HUGE}, "server-key"),
    ({"method.buffer": 1000, "method.batch": 512, TASK + "size": 128, TASK + "stored_size": 128}, "server-key"),  # 8 GB together
    ({"federation.anchor.weight": 1, "federation.anchor.images": 8193}, "server-key"),
    ({"federation.anchor.weight": 1, "federation.anchor.images": HUGE}, "server-key"),
    ({"federation.anchor.batch": HUGE}, "server-key"),
    ({TASK + "size": 4096}, "config"),
    ({TASK + "channels": 1000}, "config"),
]
FLOATS: list[Case] = [
    ({"optim.lr": 1e20}, "server-key"),
    ({"optim.lr": 1e-45}, "server-key"),
    ({"optim.name": "sgd", "optim.lr": 11}, "server-key"),
    ({"optim.weight_decay": 1e10}, "server-key"),
    ({"optim.momentum": 0.9999999}, "server-key"),
    ({"optim.betas": [0.9, 0.9999999]}, "server-key"),
    ({"optim.betas": [0.99999, 0.9]}, "server-key"),
    ({"optim.warmup_steps": HUGE}, "server-key"),
    ({"method.lambda": 1e18}, "server-key"),
    ({"method.look_ahead": 1e20}, "server-key"),
    ({"method.look_ahead": 1e-40}, "server-key"),
    ({"method.gap.weight": 1e25}, "server-key"),
    ({"method.latent.mapper_lr": 1e9}, "server-key"),
    ({"method.latent.converter_lr": 1e9}, "server-key"),
    ({"method.latent.temperature": 1e-30}, "server-key"),
    ({"method.infonce_temperature": 1e-30}, "server-key"),
    ({"method.freematch.temperature": 1e-30}, "server-key"),
    ({"method.freematch.fairness": 1e30}, "server-key"),
    ({"method.freematch.ema": 0.99999999}, "server-key"),
    ({"method.vicreg.variance": 1e30}, "server-key"),
    ({"method.vicreg.covariance": 1e30}, "server-key"),
    ({"method.vicreg.target_std": 1e-30}, "server-key"),
    ({"federation.anchor.weight": 1e30}, "server-key"),
    ({"federation.anchor.temperature": 1e-20}, "server-key"),
    ({"federation.strategy.name": "fedprox", "federation.strategy.proximal_mu": 1e20}, "server-key"),
    ({"generator.truncation": 1e-30}, "server-key"),
    ({"data.val_fraction": 0.99}, "server-key"),
    ({"seed": 2**64}, "server-key"),
    ({"optim.lr": "NaN"}, "config"),
    ({"optim.lr": "1e999"}, "config"),
]
PARTS: list[Case] = [
    ({"model.name": "evil.module:Net"}, "path"),
    ({"model.name": "../../etc/passwd"}, "path"),
    ({"model.name": "a_plug_in"}, "server-key"),
    ({"model.pretrained": "/etc/passwd"}, "path"),
    ({"generator.name": "glyphs-letters"}, "generator"),
    ({"generator.name": "os:system"}, "path"),
    ({"generator.path": "/tmp/evil.pt2"}, "path"),
    ({"generator.foundation": "weights.pt"}, "path"),
    ({"data.root": "/home"}, "path"),
    ({"method.options": {"module": "os"}}, "path"),
    ({"method.name": "vic-gssl"}, "method"),
    ({"method.name": None, "method.source": "real", "method.loss": "scr"}, "method"),
    ({"method.name": None, "method.source": "os:system", "method.loss": "scr"}, "method"),
    ({"warm_start.part": "body", "generator.name": "other"}, "generator"),
    ({"federation.anchor.weight": 1, "method.name": "base", "generator.name": "other"}, "generator"),
    ({"no.such.key": 1}, "config"),
]
REFUSED: list[Case] = [*CLIPS, *PRIVACY, *WORK, *FLOATS, *PARTS]

TAKEN: list[dict[str, Any]] = [
    {},
    {"optim.lr": 10},
    {"optim.lr": 1e-6},
    {"privacy.epsilon": 4.0},
    {TIMES: 2, "federation.evaluate_at_sites.held_out": 0.5},
    {TIMES: 1, TASK + "classes": [str(n) for n in range(256)]},
    {TASK + "classes": [str(n) for n in range(257)]},  # no table
    {"privacy.delta": 1e-9},
    {"privacy.public_size": 1},
    {"privacy.public_size": 7_000},
    {"federation.strategy.name": "fedprox", "federation.strategy.proximal_mu": 10},
    {"federation.strategy.name": "a_plug_in", "federation.strategy.options": {"file": "/etc/passwd"}},
    {"data.partition.name": "a_plug_in", "data.partition.options": {"x": 1}},
    {"output.dir": "/etc", "output.overwrite": True},
    {"method.micro_batch": None},
    OTHER_METHOD | {"method.bank": 20_000},
    {"warm_start.part": "both", "warm_start.lr": 1e30},
]
"""What a server may do: the bounds themselves, and keys that a site ignores."""
