"""A network of timm through a federation, plain and private, and out of it: predict, evaluate, export, the model's file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

timm = pytest.importorskip("timm", reason="the extra [timm] is not installed: make test-extras")

import mpssl_fed  # noqa: E402
from mpssl_fed.config import from_mapping  # noqa: E402
from mpssl_fed.errors import UserError  # noqa: E402
from mpssl_fed.federation.refusal import Refusal  # noqa: E402
from mpssl_fed.federation.server.deployed_run import for_sites  # noqa: E402
from mpssl_fed.federation.site.budget import Budget, policy_budget  # noqa: E402
from tests.federation.conftest import tiny_config  # noqa: E402
from tests.federation.test_privacy import private_config  # noqa: E402
from tests.federation.test_privacy_policy import POLICY, over_the_wire  # noqa: E402
from tests.shapes import shapes_folder  # noqa: E402

Cli = Callable[..., tuple[int, str, str]]
TINY = (
    "data.label_fraction=0.1",
    "federation.local_steps=2",
    "federation.rounds=1",
    "method.batch=4",
    "method.lmo_batch=4",
    "warm_start.part=none",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "DIR"
    shapes_folder(folder)
    return folder


def simulate(cli: Cli, photos: Path, out: Path, *words: str) -> str:
    code, said, error = cli("simulate", "own", f"data.root={photos}", *TINY, *words, "--sites", "2", "--output", out)
    assert code == 0, error
    return said


def test_a_run_and_all_that_is_made_of_its_model(cli: Cli, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng(devices=[]):
        save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), tmp_path / "w.safetensors")
    given = ("model.name=timm/test_resnet", "model.norm=frozen", f"model.pretrained={tmp_path / 'w.safetensors'}")
    run = tmp_path / "run"
    assert "accuracy" in simulate(cli, photos, run, *given, "model.trainable=norm", "method.name=mp-ssl", "method.lmo_every=1")
    with safe_open(run / "model.safetensors", "pt") as content:
        architecture = json.loads(content.metadata()["architecture"])
    assert architecture["name"] == "timm/test_resnet"
    assert architecture["norm"] == "frozen"
    assert len(architecture["weights_sha256"]) == 64
    (tmp_path / "w.safetensors").unlink()  # what is trained needs it no more
    image = next(photos.glob("test/circle/*.png"))
    code, said, error = cli("predict", run, image)
    assert code == 0, error
    assert "circle" in said
    code, said, error = cli("evaluate", run, photos / "test")
    assert code == 0, error
    code, said, error = cli("export", run, "--out", tmp_path / "model.pt2")
    assert code == 0, error
    program = torch.export.load(tmp_path / "model.pt2").module()
    classifier = mpssl_fed.load(run)
    x = torch.rand(3, classifier.channels, classifier.size, classifier.size) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(program(x), classifier(x), rtol=1e-3, atol=1e-3)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"model\.name=timm/test_resnet needs the package timm.*'mpssl-fed\[timm\]'"):
        mpssl_fed.load(run)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_under_differential_privacy_end_to_end(cli: Cli, photos: Path, tmp_path: Path, name: str) -> None:
    private = (
        "privacy.scope=end-to-end",
        "privacy.epsilon=8",
        "privacy.delta=1e-3",
        "privacy.public_size=6",
        "optim.batch_size=null",
    )
    given = (f"model.name=timm/{name}", "method.name=mp-ssl", "method.lmo_every=1", "method.hold_out=null", *private)
    simulate(cli, photos, tmp_path / "run", *given)
    code, said, error = cli("ledger", "show", tmp_path / "run")
    assert code == 0, error
    assert "epsilon" in said
    code, _, error = cli(
        "simulate", "own", f"data.root={photos}", *TINY, *given, "model.norm=batch", "--sites", "2", "--output", tmp_path / "other"
    )
    assert code == 2
    assert "model.norm=batch is refused under differential privacy" in error


def test_an_owner_may_agree_to_a_network_of_timm_by_its_name(tmp_path: Path) -> None:
    agreed = POLICY.model_copy(update={"settings": {"model.name": ["small-cnn", "timm/resnet18.a1_in1k"]}})
    granted = policy_budget(agreed, over_the_wire(private_config("model.name=timm/resnet18.a1_in1k")), tmp_path / "ledger.sqlite")
    assert isinstance(granted, Budget)
    with pytest.raises(Refusal, match="server-key"):
        policy_budget(agreed, over_the_wire(private_config("model.name=timm/resnet18.a2_in1k")), tmp_path / "other.sqlite")


def test_sites_get_no_path_and_the_statistics_as_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.trainable=all, or warm_start\.part=body"):
        for_sites(tiny_config("model.name=timm/test_resnet", "model.pretrained=cache", "model.trainable=head", "model.norm=frozen"))
    sent = for_sites(tiny_config("model.name=timm/test_resnet", "model.pretrained=cache", "model.norm=frozen"))
    assert sent.model.pretrained is None
    assert from_mapping(json.loads(sent.canonical_json())).model.norm == "frozen"
