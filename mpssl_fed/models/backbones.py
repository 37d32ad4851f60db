"""Feature extractors g_psi: a small GroupNorm CNN, torchvision's ResNets, EfficientNet-Lite0, timm's, and hand-made features."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.errors import UserError
from mpssl_fed.models.efficientnet import FEATURES, EfficientNetLite0, imagenet_body
from mpssl_fed.models.efficientnet import NAME as EFFICIENTNET
from mpssl_fed.models.hog import HOG
from mpssl_fed.models.norms import norm_layer
from mpssl_fed.models.timm_body import PREFIX, timm_body
from mpssl_fed.models.weights_file import read_state_dict, require_fit
from mpssl_fed.registry import Registry

Builder = Callable[[int, int, str, str | None], tuple[nn.Module, int]]
BODIES: Registry[Builder] = Registry("models")
"""Name -> (channels, size, norm, pretrained) -> (body, feature dimension)."""


def build_body(
    name: str, channels: int, size: int, norm: str, pretrained: str | None, blank: bool = False
) -> tuple[nn.Module, int]:
    """Return the body ``name`` and its feature dimension d; UserError where it does not take ``pretrained`` weights.

    blank: a state dict will be loaded next, so a body that always has pre-trained weights need not read them.
    """
    if name.startswith(PREFIX):
        return timm_body(name, size, norm, pretrained)
    if norm == "frozen":
        raise UserError(f"model.norm=frozen: '{name}' holds no statistics to freeze; set it to group, or take a network of timm/")
    if pretrained is not None and not name.startswith("resnet") and name != EFFICIENTNET:
        raise UserError(
            f"model.pretrained={pretrained}: '{name}' has no pre-trained weights; set it to null, or use a ResNet, {EFFICIENTNET} "
            "or timm/NAME"
        )
    if blank and name == EFFICIENTNET:
        return EfficientNetLite0(), FEATURES
    return BODIES[name](channels, size, norm, pretrained)


class Residual(nn.Module):
    """Two 3x3 convolutions with a 1x1 shortcut, halving the side: [n, c, s, s] -> [n, width, s/2, s/2]. No in-place op (vmap)."""

    def __init__(self, channels: int, width: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 2, 1, bias=False)
        self.norm1 = norm_layer(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = norm_layer(norm, width)
        self.shortcut = nn.Conv2d(channels, width, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(residual + shortcut)."""
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class SmallCNN(nn.Module):
    """Stem (stride 2, 16 wide), residual blocks of 32 and 64, mean over a 2x2 grid: d = 256; about 90 k parameters.

    The 2x2 grid matters: a global mean after GroupNorm starts with nearly collinear features, slow and unstable.
    """

    feature_dim = 256

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, 2, 1, bias=False)
        self.norm = norm_layer(norm, 16)
        self.block1 = Residual(16, 32, norm)
        self.block2 = Residual(32, 64, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, C, S, S] to [n, 256]; S from 16."""
        x = self.block2(self.block1(F.relu(self.norm(self.stem(x)))))
        return F.adaptive_avg_pool2d(x, 2).flatten(1)


@BODIES.add("small-cnn")
def _small_cnn(channels: int, size: int, norm: str, _: str | None) -> tuple[nn.Module, int]:
    if size < 16:
        raise UserError(f"data.size={size}: small-cnn halves the side three times; want 16 or more")
    return SmallCNN(channels, norm), SmallCNN.feature_dim


BODIES.add("random")(_small_cnn)


class Pixels(nn.Module):
    """Raw pixels, averaged down to at most 16 x 16: a control without training."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, C, S, S] to [n, C * min(S, 16)^2]."""
        return F.adaptive_avg_pool2d(x, min(x.shape[-1], 16)).flatten(1)


@BODIES.add("pixels")
def _pixels(channels: int, size: int, _norm: str, _: str | None) -> tuple[nn.Module, int]:
    return Pixels(), channels * min(size, 16) ** 2


@BODIES.add("hog")
def _hog(_channels: int, size: int, _norm: str, _: str | None) -> tuple[nn.Module, int]:
    body = HOG(size)
    return body, body.feature_dim


class ResNetBody(nn.Module):
    """torchvision's ResNet without its classifier; grey images are repeated to three channels.

    Below 64 px the stem is a 3x3 convolution of stride 1 without pooling, as usual for CIFAR.
    """

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__()
        if size < 64:
            net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            net.maxpool = nn.Identity()
        net.fc = nn.Identity()
        for module in net.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # in-place ops break per-unit gradient hooks
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, 1 or 3, S, S] to [n, d]."""
        out: Tensor = self.net(x.expand(-1, 3, -1, -1))
        return out


def _resnet(name: str, dim: int) -> None:
    def build(_channels: int, size: int, norm: str, pretrained: str | None) -> tuple[nn.Module, int]:
        from torchvision import models  # here: importing it takes longer than torch itself, since it brings torch's compiler

        layer = nn.BatchNorm2d if norm == "batch" else (lambda width: nn.GroupNorm(math.gcd(32, width), width))
        net = getattr(models, name)(norm_layer=layer)
        if pretrained is not None:
            if size < 64:
                raise UserError(f"model.pretrained={pretrained}: ImageNet weights need data.size of 64 or more, not {size}")
            _load_imagenet(net, pretrained, norm)
        return ResNetBody(net, size), dim

    BODIES.add(name)(build)


_resnet("resnet18", 512)
_resnet("resnet50", 2048)


@BODIES.add(EFFICIENTNET)
def _efficientnet(_channels: int, _size: int, _norm: str, pretrained: str | None) -> tuple[nn.Module, int]:
    return imagenet_body(pretrained), FEATURES


def _load_imagenet(net: nn.Module, file: str, norm: str) -> None:
    """Load torchvision's state dict; with GroupNorm the convolutions and the norm layers' scales and shifts."""
    state = read_state_dict(file, "; `mpssl-fed fetch resnet18` (or resnet50) says where it puts one")
    if norm == "group":
        state = {
            key: value for key, value in state.items() if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
        }
    require_fit(state, net.state_dict(), "this ResNet", f"model.pretrained={file}")
    net.load_state_dict(state)
