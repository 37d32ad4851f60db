"""The classifier f = h . g that is federated: its parts, its parameters as a dictionary, and what of it is shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mpssl_fed.errors import UserError
from mpssl_fed.models.backbones import build_body
from mpssl_fed.models.block import Block, Layout
from mpssl_fed.models.norms import is_norm
from mpssl_fed.seeds import initialising, seed_of

Params = dict[str, Tensor]
"""Parameters by their name in the classifier: ``body.…`` (psi) and ``head.…`` (omega)."""

Weights = dict[str, Tensor]
"""What is federated: float32 CPU tensors by their name in the classifier (``Classifier.shared_state``)."""


@dataclass(frozen=True)
class Architecture:
    """What a classifier is, all but its weights. size: of the square images it sees, in pixels; norm: ``group``, ``batch`` or, of
    timm, ``frozen``; trainable: ``all``, ``norm`` or ``head``; share_frozen: whether frozen parameters are federated too.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    size: int
    norm: str = "group"
    trainable: str = "all"
    share_frozen: bool = False


class Classifier(nn.Module):
    """f_theta = h_omega . g_psi: ``body`` maps images [n, C, S, S] in [-1, 1] to features [n, d], ``head`` to logits [n, K]."""

    def __init__(self, body: nn.Module, feature_dim: int, built: Architecture) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(feature_dim, len(built.classes))
        self.name, self.classes, self.channels, self.size = built.name, built.classes, built.channels, built.size
        self.norm, self.trainable, self.share_frozen = built.norm, built.trainable, built.share_frozen
        self.feature_dim = feature_dim
        for key, parameter in self.named_parameters():
            parameter.requires_grad_(_is_trainable(self, key, built.trainable))
        self._theta: Params = {}
        self._layers: tuple[nn.Module, ...] | None = None
        self._flat: tuple[Layout, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [n, K]."""
        logits: Tensor = self.head(self.body(x))
        return logits

    def theta(self) -> Params:
        """Return the trainable parameters, live (not copies)."""
        if not self._theta:  # walking the modules takes as long as a layer; which parameters there are never changes
            self._theta = {name: p for name, p in self.named_parameters() if p.requires_grad}
        return dict(self._theta)

    def train(self, mode: bool = True) -> Classifier:
        """Set all layers to training, or to use, where one of them is not."""
        if self._layers is None:
            self._layers = tuple(self.modules())
        if any(layer.training is not mode for layer in self._layers):
            super().train(mode)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state | {"_flat": None})  # type: ignore[no-untyped-call]  # a copy's parameters lie apart

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._theta, self._flat = {}, None  # to another device, or dtype, the parameters may be new ones
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def logits(self, theta: Params, x: Tensor) -> Tensor:
        """Return the logits [n, K] at ``theta``; parameters not in it are the module's own."""
        out: Tensor = self(x) if self._is_own(theta) else functional_call(self, theta, (x,))
        return out

    def features(self, theta: Params, x: Tensor) -> Tensor:
        """Return g_psi(x) [n, d] at the ``body.`` part of ``theta``."""
        psi = {name.removeprefix("body."): p for name, p in theta.items() if name.startswith("body.")}
        out: Tensor = self.body(x) if self._is_own(theta) else functional_call(self.body, psi, (x,))
        return out

    @contextmanager
    def still_statistics(self) -> Iterator[None]:
        """Keep the running statistics of BatchNorm as they are while synthetic images or a look-ahead pass through."""
        layers = [layer for layer in self._batch_norms() if layer.track_running_stats]
        for layer in layers:
            layer.track_running_stats = False
        try:
            yield
        finally:
            for layer in layers:
                layer.track_running_stats = True

    @contextmanager
    def running_statistics(self) -> Iterator[None]:
        """Normalise BatchNorm by its running statistics, which stay as they are, as when the trained model is used.

        By those of a batch a whole batch of other brightness or contrast, or of noise, looks like the real one.
        """
        layers = [layer for layer in self._batch_norms() if layer.training]
        for layer in layers:
            layer.eval()
        try:
            yield
        finally:
            for layer in layers:
                layer.train()

    @property
    def mixes_images(self) -> bool:
        """Whether, in training, what is seen in an image depends on the batch that it stands in (BatchNorm)."""
        return bool(self._batch_norms())

    @property
    def trains_body(self) -> bool:
        """Whether anything of psi is trained."""
        return any(parameter.requires_grad for parameter in self.body.parameters())

    def gather(self) -> None:
        """Move what is federated into one piece of memory where it is float32, so that it is read and set in one call."""
        shared = self._shared()
        if not all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in shared.values()):
            return
        layout = Layout.of(shared)
        flat = torch.zeros(layout.size, device=self.head.weight.device)
        for key, part in layout.views(flat).items():
            part.copy_(shared[key].detach())
            shared[key].data = part
        self._flat = (layout, flat)

    def shared_state(self) -> Params:
        """Return CPU float32 copies of what is federated.

        Trainable parameters; with BatchNorm its running statistics too (never its integer counter); with ``share_frozen``
        (a body warm-started at the server) the frozen parameters as well, so that every site has the same body.
        """
        if self._flat is not None:
            return Block(self._flat[0], self._flat[1].to("cpu", copy=True))
        return {key: tensor.detach().to("cpu", torch.float32, copy=True).contiguous() for key, tensor in self._shared().items()}

    def load_shared(self, state: Params) -> None:
        """Set what :meth:`shared_state` returns. UserError on a missing or extra key, or a wrong shape; nothing is set then."""
        if self._flat is not None and isinstance(state, Block) and state.layout == self._flat[0]:
            self._flat[1].copy_(state.flat)
            return
        mine = self._shared()
        if mine.keys() != state.keys():
            missing, extra = sorted(mine.keys() - state.keys())[:3], sorted(state.keys() - mine.keys())[:3]
            raise UserError(f"classifier weights do not fit '{self.name}': missing {missing}, unknown {extra}")
        for key, tensor in mine.items():
            if tensor.shape != state[key].shape:
                raise UserError(f"classifier weights '{key}': shape {tuple(state[key].shape)}, want {tuple(tensor.shape)}")
        with torch.no_grad():
            for key, tensor in mine.items():
                tensor.copy_(state[key])

    def architecture(self) -> dict[str, Any]:
        """Return the fields of its :class:`Architecture` as JSON types, and the SHA-256 of packaged weights."""
        weights = getattr(self.body, "weights_sha256", None)
        return {
            "name": self.name,
            "classes": list(self.classes),
            "channels": self.channels,
            "size": self.size,
            "norm": self.norm,
            "trainable": self.trainable,
            "share_frozen": self.share_frozen,
            **({} if weights is None else {"weights_sha256": weights}),
        }

    def _is_own(self, theta: Params) -> bool:
        """Whether theta are the module's own parameters, all of them: then it needs no others put in their place."""
        own = self.theta()
        return theta.keys() == own.keys() and all(theta[name] is p for name, p in own.items())

    def _batch_norms(self) -> list[nn.modules.batchnorm._BatchNorm]:
        return [m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def _shared(self) -> Params:
        shared: Params = {name: p for name, p in self.named_parameters() if p.requires_grad or self.share_frozen}
        shared |= {name: b for name, b in self.named_buffers() if name.endswith(("running_mean", "running_var"))}
        return shared


def widened(x: Tensor) -> Tensor:
    """Return x in float32 where autocast made it 16 bits wide; wider types stay."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def build_classifier(asked: Architecture, pretrained: str | None = None, seed: int = 0, blank: bool = False) -> Classifier:
    """Return a classifier whose initial weights depend on ``seed`` alone (the run seed), the same at every site.

    The name: small-cnn, resnet18, resnet50, efficientnet-lite0, random (a frozen random small-cnn), pixels, hog, timm/NAME; or a
    plug-in ``mpssl_fed.models``. pretrained: file with ImageNet weights, of a ResNet (torchvision's), efficientnet-lite0 (default:
    its package's) or timm/NAME (or ``cache``). blank: weights do not matter, a state dict is loaded next. Raises UserError for
    an unknown name, a size that the body cannot take or weights that do not fit.
    """
    with initialising(seed_of(seed, "classifier")):
        body, feature_dim = build_body(asked.name, asked.channels, asked.size, asked.norm, pretrained, blank)
        only_head = asked.name == "random" or not any(True for _ in body.parameters())
        return Classifier(body, feature_dim, replace(asked, trainable="head") if only_head else asked)


def _is_trainable(model: nn.Module, key: str, trainable: str) -> bool:
    if key.startswith("head.") or trainable == "all":
        return True
    layer = model.get_submodule(key.rpartition(".")[0])
    return trainable == "norm" and is_norm(layer)
