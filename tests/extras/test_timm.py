"""Networks of timm as bodies: features as timm's own, gradients of single images and of second order, files, names and limits."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

timm = pytest.importorskip("timm", reason="the extra [timm] is not installed: make test-extras")

import huggingface_hub  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from mpssl_fed.errors import UserError  # noqa: E402
from mpssl_fed.models import Architecture, Classifier, build_classifier  # noqa: E402
from mpssl_fed.models.timm_body import cached_weights  # noqa: E402
from mpssl_fed.study.dry_run.missing import missing  # noqa: E402
from tests.extras.hub_cache import into_cache  # noqa: E402
from tests.federation.conftest import tiny_config  # noqa: E402

CLASSES = ("a", "b", "c")
NAMES = ("test_resnet", "test_vit", "test_efficientnet", "test_byobnet", "test_mambaout", "test_nfnet", "mobilenetv3_small_050")
PLAIN = ("test_resnet", "test_vit", "test_efficientnet", "mobilenetv3_small_050")


def model(name: str, norm: str = "group", pretrained: Path | str | None = None, **more: Any) -> Classifier:
    asked = Architecture(f"timm/{name}", CLASSES, 3, more.pop("size", 32), norm, **more)
    return build_classifier(asked, None if pretrained is None else str(pretrained))


def whole(name: str) -> Any:
    """Return timm's own network with a head of 1000 classes and statistics that are no two alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        net = timm.create_model(name, pretrained=False).eval()
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return net


@pytest.fixture
def weights(tmp_path: Path):
    """``weights(name)`` -> a file as timm publishes it."""

    def write(name: str) -> Path:
        save_file(whole(name).state_dict(), tmp_path / f"{name}.safetensors")
        return tmp_path / f"{name}.safetensors"

    return write


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("name", PLAIN)
def test_features_are_those_that_timm_s_own_head_is_given(weights, name: str, norm: str) -> None:
    net, body = whole(name), model(name, norm, weights(name)).eval().body
    config = net.pretrained_cfg
    pixels = torch.rand(2, 3, body.side, body.side, generator=torch.Generator().manual_seed(1))
    mean, deviation = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        wanted = net.forward_head(net.forward_features((pixels - mean) / deviation), pre_logits=True)
        found = body(2 * pixels - 1)
        assert found.shape[1] == net.get_classifier().in_features
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
        many = (2 * pixels - 1).repeat(20, 1, 1, 1)
        torch.testing.assert_close(body(many), found.repeat(20, 1), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(body(many[:2, :1]), body(many[:2, :1].repeat(1, 3, 1, 1)))
        small = torch.rand(1, 3, 24, 24)
        large = F.interpolate(small, (body.side, body.side), mode="bilinear", align_corners=False)
        torch.testing.assert_close(body(small), body(large))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_one_image_s_gradients_are_its_own_and_have_a_derivative(name: str) -> None:
    """What differential privacy and latent meta-optimisation need, in training mode."""
    classifier = model(name).double().train()
    assert not classifier.mixes_images
    theta = classifier.theta()
    x, y = torch.rand(3, 3, 32, 32, dtype=torch.float64) * 2 - 1, torch.tensor([0, 2, 1])

    def loss(theta: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(classifier.logits(theta, image[None]), label[None])

    rows = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(theta, x, y)
    batch = dict(
        zip(theta, torch.autograd.grad(F.cross_entropy(classifier.logits(theta, x), y), list(theta.values())), strict=True)
    )
    for key, row in rows.items():
        assert torch.allclose(row.mean(0), batch[key], rtol=1e-6, atol=1e-9), key
    leaf, psi = x.clone().requires_grad_(), [p for key, p in theta.items() if key.startswith("body.")]
    first = torch.autograd.grad(classifier.features(theta, leaf).square().mean(), psi, create_graph=True)
    second = torch.autograd.grad(torch.stack([(g * g).sum() for g in first]).sum(), leaf)[0]
    assert second.isfinite().all()
    assert float(second.abs().max()) > 0


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_what_is_trained(name: str) -> None:
    counts = {trainable: len(model(name, trainable=trainable).theta()) for trainable in ("head", "norm", "all")}
    assert counts["head"] == 2
    assert 2 < counts["norm"] < counts["all"]
    classifier = model(name, trainable="norm")
    places = {key.rpartition(".")[0] for key in classifier.theta()} - {"head"}
    whole = whole_norms(classifier)
    assert places == whole
    assert len(whole) > 10


def whole_norms(classifier: Classifier) -> set[str]:
    """Return the names of all layers whose own class is called a norm by torch or timm, or was BatchNorm."""
    kinds = (nn.GroupNorm, nn.LayerNorm)
    return {key for key, module in classifier.named_modules() if isinstance(module, kinds)}


def test_weights_repeat_and_follow_the_seed() -> None:
    def flat(seed: int) -> Tensor:
        asked = Architecture("timm/test_resnet", CLASSES, 3, 32)
        return torch.cat([p.detach().flatten() for p in build_classifier(asked, seed=seed).parameters()])

    assert torch.equal(flat(1), flat(1))
    assert not torch.equal(flat(1), flat(2))


def test_dropout_is_put_aside() -> None:
    """Its random numbers would come from no stream of the run; this network has some by default."""
    classifier = model("ghostnet_100").train()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(classifier(x), classifier(x))


def test_pretrained_statistics_are_not_thrown_away(weights) -> None:
    with pytest.raises(UserError, match=r"model\.norm=group: timm/test_resnet has BatchNorm.*set model\.norm=frozen"):
        model("test_resnet", "group", weights("test_resnet"))
    assert model("test_vit", "group", weights("test_vit")).body.weights_sha256  # has none to lose
    with pytest.raises(UserError, match=r"model\.norm=frozen: 'small-cnn' holds no statistics"):
        build_classifier(Architecture("small-cnn", CLASSES, 3, 32, "frozen"))


@pytest.mark.parametrize("norm", ["group", "frozen"])
def test_a_network_that_mixes_images_without_batch_norm(norm: str) -> None:
    name = f"of_batches_{norm}"

    def build(pretrained: bool = False, **more: Any) -> Any:
        return timm.create_model("test_efficientnet", pretrained=False, norm_layer=timm.layers.EvoNorm2dB0, **more)

    build.__name__ = name
    timm.models.register_model(build)
    with pytest.raises(UserError, match=rf"timm/{name}: sees an image otherwise beside other images, though model\.norm="):
        model(name, norm)
    assert model(name, "batch").feature_dim == 256


def test_a_network_that_counts_with_tensors_as_it_is_made() -> None:
    """As vision transformers did up to timm 1.0.21: on a device of shapes alone there is nothing to count with."""

    def counting(pretrained: bool = False, **more: Any) -> Any:
        assert [rate.item() for rate in torch.linspace(0, 1, 3)] == [0, 0.5, 1]
        return timm.create_model("test_vit", pretrained=False, **more)

    timm.models.register_model(counting)
    with torch.device("meta"):
        assert {one.device.type for one in model("counting").state_dict().values()} == {"meta"}
    assert model("counting").feature_dim == model("test_vit").feature_dim


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet81", r"no network of that name.*Did you mean 'resnet"),
        ("resnet18.nope", r"no such weights; it has resnet18\.a1_in1k"),
        ("hf-hub:timm/resnet18.a1_in1k", "no network of that name"),
        ("local-dir:models", "no network of that name"),
        ("../resnet18", "no network of that name"),
        ("", "no network of that name"),
    ],
)
def test_a_name_that_timm_would_look_up_elsewhere(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was asked for")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(UserError, match=words):
        model(name)


def test_the_cache_is_read_and_nobody_is_asked(weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was asked for")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    config = tiny_config("model.name=timm/test_resnet", "model.pretrained=cache", "model.norm=frozen")
    assert missing(config) == ("weights of timm/test_resnet in timm's cache",)
    with pytest.raises(UserError, match=r"weights of timm/test_resnet \(timm/test_resnet\.r160_in1k\) are not in timm's cache"):
        model("test_resnet", "frozen", "cache")
    (tmp_path / "fetched").mkdir()
    weights("test_resnet").rename(tmp_path / "fetched" / "model.safetensors")
    snapshot = into_cache(tmp_path / "fetched", tmp_path / "hub" / "models--timm--test_resnet.r160_in1k")
    file = snapshot / "model.safetensors"
    for name in ("timm/test_resnet", "timm/test_resnet.r160_in1k"):
        assert cached_weights(name) == file
    assert missing(config) == ()
    found, given = model("test_resnet", "frozen", "cache"), model("test_resnet", "frozen", file)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), given.parameters(), strict=True))
    assert found.body.weights_sha256 == given.body.weights_sha256 == file.resolve().name  # of the content, not of a link


def test_the_cache_of_torch_hub_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = "resnet18.tv_in1k"
    config = timm.get_pretrained_cfg(name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert cached_weights(f"timm/{name}") is None
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    file = tmp_path / "hub" / "checkpoints" / config.url.rpartition("/")[2]
    file.touch()
    assert cached_weights(f"timm/{name}") == file


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda state: state.pop("conv1.0.weight"), r"keys or shapes are not those of timm/test_resnet: conv1\.0\.weight"),
        (lambda state: state.update({"conv1.0.weight": torch.zeros(3)}), r"keys or shapes are not those of timm/test_resnet"),
        (lambda state: state["conv1.0.weight"].fill_(torch.inf), "not finite"),
    ],
)
def test_weights_that_do_not_fit(weights, edit, words: str) -> None:
    file = weights("test_resnet")
    state = load_file(file)
    edit(state)
    save_file(state, file)
    with pytest.raises(UserError, match=rf"model\.pretrained=.*{words}"):
        model("test_resnet", "frozen", file)


def test_a_file_that_is_damaged_or_missing(weights) -> None:
    file = weights("test_resnet")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"no readable weights file"):
        model("test_resnet", "frozen", file)
    file.unlink()
    with pytest.raises(UserError, match=r"no such file"):
        model("test_resnet", "frozen", file)


def test_a_side_that_does_not_fit() -> None:
    assert model("test_vit", size=200).body.side == 160  # its own, whatever the images'
    assert model("test_resnet", size=200).body.side == 200
    assert model("test_resnet", size=16).body.side == 96
