"""`deploy` is owner and server at once: the policies it writes take every config that could be deployed at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mpssl_fed.config import Config, config_folder, load
from mpssl_fed.config.data import Task
from mpssl_fed.deployment.rehearsal_policy import policy_of
from mpssl_fed.errors import UserError
from mpssl_fed.federation.server.deployed_run import for_sites
from mpssl_fed.privacy.policy import Request, decide, load_policy

SHIPPED = sorted(path for folder in (".", "privacy", "datasets") for path in (config_folder() / folder).glob("*.yaml"))
ODD = [
    "privacy.clip={gradient: 0.25, meta: 30, feature: 7}",
    "privacy={epsilon: 60, public_size: 50, sample_rate: 1.0, delta: 1.0e-9}",  # less noise than a policy takes by default
    "privacy={epsilon: 3, public_size: 100, sample_rate: 1.0, per_unit: loop, max_physical_batch: 64, sigma_feature_ratio: 150}",
    "optim={lr: 99, weight_decay: 3}",
    "federation={rounds: 2000, local_steps: 2000}",
    "method={name: mp-ssl, batch: 2048, buffer: 300, latent: {hidden: 4096}}",
    "method={name: null, source: random, loss: infonce}",
    "runtime.threads=64",
]


def with_task(path: str | Path, *overrides: str) -> Config:
    """Return a config with a task of its own, so that no data set is read."""
    config = load(path, list(overrides))
    task = Task(classes=("a", "b"), size=config.data.size or 32, channels=3)
    return config.model_copy(update={"data": config.data.model_copy(update={"task": task})})


def taken(config: Config, fields: dict[str, Any], folder: Path) -> tuple[str, ...]:
    """Return the codes by which a site with the policy ``fields``, read from disk as a site reads it, would refuse."""
    path = folder / "policy.yaml"
    path.write_text(yaml.safe_dump(fields))
    sha256 = fields["generators"][0]["sha256"] if "generators" in fields else None
    return decide(
        load_policy(path), Request.of(for_sites(config), parameters=fields["max_parameters"], generator_sha256=sha256)
    ).codes


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_can_be_deployed(path: Path, tmp_path: Path) -> None:
    config = with_task(path)
    fields = policy_of(config)
    assert taken(config, fields, tmp_path) == ()
    assert "settings" not in fields  # what ships needs no agreement beyond the policy's own fields


@pytest.mark.parametrize("override", ODD)
def test_an_odd_config_is_agreed_to_key_by_key(override: str, tmp_path: Path) -> None:
    config = with_task("privacy/end-to-end", "federation={rounds: 2, local_steps: 5}", "privacy.sample_rate=1", override)
    fields = policy_of(config)
    assert taken(config, fields, tmp_path) == ()
    settings = fields.pop("settings", None)
    assert settings is None or taken(config, fields, tmp_path) != ()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["privacy.noise=fast"], "privacy.noise=fast is asked for, this site takes secure"),
        (["privacy.epsilon=1000"], "max_epsilon: Input should be less than or equal to 100"),
        (["method={name: ssl-real}", "privacy={scope: off}"], "no policy can allow it"),
        (["optim.lr=1e20"], "optim.lr=1e[+]20 is asked for"),
        (["method={name: mp-ssl, options: {module: os}}", "model.name=a:b"], "(path or an import|a:b)"),
    ],
)
def test_what_no_site_could_take_is_said_before_anything_starts(overrides: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        policy_of(with_task("privacy/end-to-end", *overrides))


def test_a_table_of_as_many_classes_as_a_policy_may_allow(tmp_path: Path) -> None:
    config = with_task("privacy/end-to-end", "federation={rounds: 2, local_steps: 5, evaluate_at_sites: {times: 1}}")

    def of(classes: int) -> Config:
        assert config.data.task is not None
        task = config.data.task.model_copy(update={"classes": tuple(map(str, range(classes)))})
        return config.model_copy(update={"data": config.data.model_copy(update={"task": task})})

    assert taken(of(1024), policy_of(of(1024)), tmp_path) == ()
    with pytest.raises(UserError, match="max_table_classes: Input should be less than or equal to 1024"):
        policy_of(of(1025))


def test_a_frozen_body_from_a_file_is_not_trained_upon_elsewhere() -> None:
    """Sites have no such file, so their frozen body would be another one, and nobody would see it."""
    file = "model={name: resnet18, pretrained: body.pth, trainable: %s}"
    for kept in ("norm", "head"):
        with pytest.raises(UserError, match=r"body.pth with model.trainable=.*: the frozen body stays on this machine"):
            for_sites(load("demo", [file % kept]))
    assert for_sites(load("demo", [file % "all"])).model.pretrained is None
    assert for_sites(load("demo", [file % "head", "warm_start.part=body"])).model.pretrained is None
