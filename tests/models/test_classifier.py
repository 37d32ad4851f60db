"""Classifiers: shapes, what is shared, what is trained, weights that do not fit, ImageNet files."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision

from mpssl_fed.errors import UserError
from mpssl_fed.files import sha256
from mpssl_fed.models import Architecture, build_classifier
from mpssl_fed.models.fetch import fetch_resnet

CLASSES = ("a", "b", "c")


@pytest.mark.parametrize(("name", "size", "dim"), [("small-cnn", 32, 256), ("resnet18", 32, 512), ("resnet18", 64, 512),
                                                   ("pixels", 28, 256), ("hog", 28, 1764), ("random", 32, 256)])  # fmt: skip
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(name: str, size: int, dim: int, channels: int) -> None:
    model = build_classifier(Architecture(name, CLASSES, channels, size))
    x = torch.rand(2, channels, size, size) * 2 - 1
    features = model.features(model.theta(), x)
    assert features.shape == (2, dim * channels if name == "pixels" else dim)
    assert model.logits(model.theta(), x).shape == (2, 3)
    assert torch.equal(model.logits(model.theta(), x), model(x))


def test_resnet50_builds_with_either_norm() -> None:
    for norm, kind in (("group", torch.nn.GroupNorm), ("batch", torch.nn.BatchNorm2d)):
        model = build_classifier(Architecture("resnet50", CLASSES, 3, 64, norm=norm))
        assert sum(isinstance(m, kind) for m in model.modules()) == 53
        assert model.feature_dim == 2048


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = build_classifier(Architecture("small-cnn", CLASSES, 1, 32), seed=4)
    torch.manual_seed(2)
    same, other = (
        build_classifier(Architecture("small-cnn", CLASSES, 1, 32), seed=4),
        build_classifier(Architecture("small-cnn", CLASSES, 1, 32), seed=5),
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.body.stem.weight, other.body.stem.weight)


@pytest.mark.parametrize(("trainable", "body"), [("all", True), ("norm", True), ("head", False)])
def test_what_is_trained_is_what_is_shared(trainable: str, body: bool) -> None:
    model = build_classifier(Architecture("small-cnn", CLASSES, 1, 32, trainable=trainable))
    assert model.shared_state().keys() == model.theta().keys()
    assert any(name.startswith("body.") for name in model.theta()) == body
    if trainable == "norm":
        assert all("norm" in name or name.startswith("head.") for name in model.theta())
    whole = build_classifier(Architecture("small-cnn", CLASSES, 1, 32, trainable=trainable, share_frozen=True))
    assert whole.shared_state().keys() == dict(whole.named_parameters()).keys()


def test_batchnorm_shares_its_statistics_and_never_its_counter() -> None:
    shared = build_classifier(Architecture("small-cnn", CLASSES, 1, 32, norm="batch")).shared_state()
    assert any(key.endswith("running_mean") for key in shared)
    assert not any("num_batches" in key for key in shared)
    assert all(value.dtype == torch.float32 for value in shared.values())


def test_weights_that_do_not_fit_change_nothing() -> None:
    model = build_classifier(Architecture("small-cnn", CLASSES, 1, 32))
    before = model.shared_state()
    missing = {key: value + 1 for key, value in before.items() if key != "head.bias"}
    with pytest.raises(UserError, match=r"missing \['head.bias'\]"):
        model.load_shared(missing)
    with pytest.raises(UserError, match=r"'head.bias': shape \(4,\), want \(3,\)"):
        model.load_shared({key: value + 1 for key, value in before.items()} | {"head.bias": torch.zeros(4)})
    assert all(torch.equal(value, before[key]) for key, value in model.shared_state().items())


def test_statistics_stand_still_where_asked() -> None:
    model = build_classifier(Architecture("small-cnn", CLASSES, 1, 32, norm="batch")).train()
    before = {name: b.clone() for name, b in model.named_buffers()}
    x = torch.rand(4, 1, 32, 32)
    with model.still_statistics():
        model(x)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    model(x)
    assert not torch.equal(model.body.norm.running_mean, before["body.norm.running_mean"])


def test_hog_is_bounded_and_blind_to_brightness() -> None:
    model = build_classifier(Architecture("hog", CLASSES, 1, 32))
    x = torch.rand(3, 1, 32, 32)
    features = model.body(x)
    assert float(features.view(3, 36, 49).norm(dim=1).max()) <= 1 + 1e-5
    assert torch.allclose(features, model.body(x * 0.5 + 0.3), atol=0.02)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_imagenet_weights_load_and_misfits_are_refused(norm: str, tmp_path: Path) -> None:
    net = torchvision.models.resnet18()
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    model = build_classifier(Architecture("resnet18", CLASSES, 3, 64, norm=norm), pretrained=str(tmp_path / "weights.pth"))
    assert torch.equal(model.body.net.layer1[0].conv1.weight, net.layer1[0].conv1.weight)
    state = net.state_dict()
    del state["layer1.0.conv1.weight"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(UserError, match=r"short\.pth: keys or shapes.*layer1\.0\.conv1\.weight"):
        build_classifier(Architecture("resnet18", CLASSES, 3, 64, norm=norm), pretrained=str(tmp_path / "short.pth"))
    bad = net.state_dict()
    bad["fc.bias"][0] = float("nan")
    torch.save(bad, tmp_path / "nan.pth")
    with pytest.raises(UserError, match="not finite"):
        build_classifier(Architecture("resnet18", CLASSES, 3, 64, norm=norm), pretrained=str(tmp_path / "nan.pth"))


def test_pretrained_files_that_are_none_or_not_what_their_name_says(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_bytes(b"text")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    torch.save({}, tmp_path / "resnet18-00000000.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    for name, words in (
        ("text", "no readable weights file"),
        ("list", "no state dict"),
        ("module", r"holds more than named tensors, and such a pickle is not opened$"),
        ("resnet18-00000000", "does not begin with"),
    ):
        with pytest.raises(UserError, match=words):
            build_classifier(Architecture("resnet18", CLASSES, 3, 64), pretrained=str(tmp_path / f"{name}.pth"))


def test_names_sizes_and_pretrained_that_cannot_be() -> None:
    with pytest.raises(UserError, match=r"unknown models 'resnet19'.*Did you mean 'resnet18'"):
        build_classifier(Architecture("resnet19", CLASSES, 3, 64))
    with pytest.raises(UserError, match=r"data\.size=8: small-cnn"):
        build_classifier(Architecture("small-cnn", CLASSES, 1, 8))
    with pytest.raises(UserError, match=r"'small-cnn' has no pre-trained weights"):
        build_classifier(Architecture("small-cnn", CLASSES, 1, 32), pretrained="x.pth")
    with pytest.raises(UserError, match=r"nowhere\.pth: no such file"):
        build_classifier(Architecture("resnet18", CLASSES, 3, 64), pretrained="nowhere.pth")
    with pytest.raises(UserError, match=r"ImageNet weights need data\.size of 64"):
        build_classifier(Architecture("resnet18", CLASSES, 3, 32), pretrained="nowhere.pth")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{http_server.server_address[1]}"
        http_server.shutdown()


def test_fetched_imagenet_weights_must_have_the_sum_in_their_name(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = server
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (folder / "weights").write_bytes(b"weights")
    right, wrong = f"resnet18-{sha256(folder / 'weights')[:8]}.pth", "resnet18-00000000.pth"
    for name in (right, wrong):
        (folder / name).write_bytes(b"weights")
    for name, good in ((right, True), (wrong, False)):
        entry = SimpleNamespace(IMAGENET1K_V1=SimpleNamespace(url=f"{url}/{name}"))
        monkeypatch.setattr(torchvision.models, "ResNet18_Weights", entry)
        if good:
            assert fetch_resnet("resnet18").read_bytes() == b"weights"
        else:
            with pytest.raises(UserError, match="does not begin with 00000000"):
                fetch_resnet("resnet18")
            assert not (tmp_path / "cache" / "mpssl-fed" / "models" / wrong).exists()
    with pytest.raises(UserError, match="no ImageNet weights are known for 'vgg'"):
        fetch_resnet("vgg")
