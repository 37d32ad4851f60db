"""``model.name=timm/NAME``: any network of the package ``timm`` as a body (extra ``[timm]``), never downloaded.

A network sees images as its weights were trained to: by the mean and deviation that timm names, and at its own side where that is
fixed. Features are what timm's own head would be given. What would stop second derivatives or gradients of single images is put
aside: operations in place, fused attention, and dropout, whose random numbers no seed of a run decides.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.environment import extra
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.files import sha256
from mpssl_fed.models.efficientnet import LEAST_SIDE, SLICE
from mpssl_fed.models.norms import ChannelAffine
from mpssl_fed.models.weights_file import read_state_dict, require_fit
from mpssl_fed.names import TIMM_NAME

PREFIX = "timm/"
CACHE = "cache"
"""``model.pretrained`` of weights that timm has fetched before."""


class TimmBody(nn.Module):
    """Images [n, 1 or 3, S, S] in [-1, 1] to features [n, d]. ``weights_sha256``: the file that the weights are from, or None."""

    def __init__(self, net: Any, size: int) -> None:
        super().__init__()
        config = net.pretrained_cfg
        own, fixed = config["input_size"][-1], bool(config.get("fixed_input_size"))
        self.side = own if fixed else max(size, min(own, LEAST_SIDE))
        self.mean, self.deviation = tuple(config["mean"]), tuple(config["std"])
        self.weights_sha256: str | None = None
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, pooled as timm does."""
        if not torch.is_grad_enabled() and len(x) > SLICE:  # in this order: an export, with gradients, must not read the number
            return torch.cat([self(part) for part in torch.split(x, SLICE)])
        x = x.expand(-1, 3, -1, -1)
        if x.shape[-1] != self.side:
            shrinking = x.shape[-1] > self.side
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False, antialias=shrinking)
        mean, deviation = (x.new_tensor(one).view(1, 3, 1, 1) for one in (self.mean, self.deviation))
        features: Tensor = self.net(((x + 1) / 2 - mean) / deviation)
        return features


def timm_body(name: str, size: int, norm: str, pretrained: str | None) -> tuple[TimmBody, int]:
    """Return the body ``timm/NAME`` and its feature dimension.

    norm: what becomes of BatchNorm: ``group``, GroupNorm; ``batch``, it stays; ``frozen``, with the statistics of ``pretrained`` as
    constants, folded into scale and shift. pretrained: a file, or ``cache``. UserError where the extra is not installed, for a name
    that timm does not have, weights that are missing or do not fit, and a network that mixes images although BatchNorm is gone.
    """
    timm = extra("timm", "timm", f"model.name={name}")
    _require_known(timm, name)
    net = _made(timm, name)
    file = None if pretrained is None else _weights_file(net, name, pretrained)
    if file is not None:
        _load(net, file, name)
    _replace_batch_norms(net, name, norm, pretrained)
    _make_plain(net)
    body = TimmBody(net, size)
    body.weights_sha256 = None if file is None else sha256(file)
    return body, _feature_dim(body, name, size, norm)


def cached_weights(name: str) -> Path | None:
    """Return the file that timm has fetched for ``timm/NAME``, without asking anybody; None where there is none."""
    timm = extra("timm", "timm", f"model.name={name}")
    _require_known(timm, name)
    config = timm.get_pretrained_cfg(name.removeprefix(PREFIX))
    return None if config is None else _cached(config.to_dict())


def _require_known(timm: Any, name: str) -> None:
    network, dot, _ = name.removeprefix(PREFIX).partition(".")
    if TIMM_NAME.fullmatch(name) and timm.is_model(network):
        if not dot or name.removeprefix(PREFIX) in timm.list_pretrained(f"{network}.*"):
            return
        raise UserError(
            f"model.name={name}: timm has no such weights; it has {', '.join(timm.list_pretrained(f'{network}.*')) or 'none'}"
        )
    known = timm.list_models()
    raise UserError(f"model.name={name}: timm has no network of that name.{nearest(name.removeprefix(PREFIX), known)}")


def _made(timm: Any, name: str) -> Any:
    """Return the network on torch's default device. Some count with tensors as they are made, which those of no content refuse."""
    where = torch.get_default_device()
    for device in (where, torch.device("cpu")) if where.type == "meta" else (where,):
        try:
            with device:
                net = timm.create_model(name.removeprefix(PREFIX), pretrained=False, num_classes=0)
            return net.to(where)
        except (RuntimeError, ValueError, TypeError, AssertionError, KeyError) as error:
            why = error
    raise UserError(f"model.name={name}: timm cannot make a body of it: {why}") from why


def _weights_file(net: Any, name: str, pretrained: str) -> Path:
    if pretrained != CACHE:
        return Path(pretrained)
    file = _cached(net.pretrained_cfg)
    if file is None:
        source = net.pretrained_cfg.get("hf_hub_id") or net.pretrained_cfg.get("url") or "nowhere"
        raise UserError(
            f"model.pretrained={CACHE}: the weights of {name} ({source}) are not in timm's cache, and nothing is downloaded here; "
            "fetch them by `hf download`, or name a file"
        )
    return file


def _cached(config: dict[str, Any]) -> Path | None:
    """Return a file in the hub's cache, else in torch's."""
    if hub := config.get("hf_hub_id"):
        lookup = extra("timm", "huggingface_hub", "model.pretrained=cache").try_to_load_from_cache
        for file in filter(None, (config.get("hf_hub_filename"), "model.safetensors", "pytorch_model.bin")):
            if isinstance(found := lookup(hub, file), str):
                return Path(found)
    url = config.get("url") or ""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return file if url and file.is_file() else None


def _load(net: Any, file: Path, name: str) -> None:
    """Load a file of timm's own form; the weights of its classifier are left out."""
    heads = net.pretrained_cfg.get("classifier") or ()
    own, state = net.state_dict(), read_state_dict(file)
    for head in (heads,) if isinstance(heads, str) else heads:
        state = {key: value for key, value in state.items() if key in own or not key.startswith(f"{head}.")}
    state = {key: value.to(own[key].dtype) if key in own else value for key, value in state.items()}
    require_fit(state, own, name, f"model.pretrained={file}")
    net.load_state_dict(state)


def _replace_batch_norms(net: nn.Module, name: str, norm: str, pretrained: str | None) -> None:
    """Put another layer in the place of each BatchNorm, under its name, as ``norm`` says."""
    places = [
        (module, key, child)
        for module in net.modules()
        for key, child in module.named_children()
        if isinstance(child, nn.modules.batchnorm._BatchNorm)
    ]
    if not places or norm == "batch":
        return
    if norm == "group" and pretrained is not None:
        raise UserError(
            f"model.pretrained={pretrained} with model.norm=group: {name} has BatchNorm, and its weights are worth little without "
            "its statistics; set model.norm=frozen, which holds these as constants"
        )
    for module, key, child in places:
        setattr(module, key, _Grouped(child) if norm == "group" else _Folded(child))


def _make_plain(net: nn.Module) -> None:
    """Put aside what draws random numbers of its own, and what has no second derivative or none of single images."""
    for module in list(net.modules()):
        for switch, off in (("inplace", False), ("fused_attn", False), ("drop_prob", 0.0), ("drop_rate", 0.0)):
            if hasattr(module, switch):
                setattr(module, switch, off)
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for key, child in module.named_children():
            if type(child).__name__.lower() == "hardsigmoid":
                setattr(module, key, _HardSigmoid())


class _HardSigmoid(nn.Module):
    """The function of that name, of which torch knows no second derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3) / 6


class _Grouped(nn.GroupNorm):
    """GroupNorm over the channels of a BatchNorm, followed by what timm fuses with that."""

    def __init__(self, batch: Any) -> None:
        width = batch.num_features
        super().__init__(math.gcd(32, width), width, batch.eps)
        if batch.affine:
            self.load_state_dict({"weight": batch.weight.detach(), "bias": batch.bias.detach()})
        self.drop, self.act = getattr(batch, "drop", nn.Identity()), getattr(batch, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(super().forward(x)))
        return out


class _Folded(ChannelAffine):
    """What a BatchNorm does in eval mode, as scale and shift, followed by what timm fuses with it."""

    def __init__(self, batch: Any) -> None:
        super().__init__(batch.num_features)
        scale = torch.rsqrt(batch.running_var + batch.eps) * (batch.weight.detach() if batch.affine else 1)
        shift = (batch.bias.detach() if batch.affine else 0) - batch.running_mean * scale
        self.load_state_dict({"weight": scale, "bias": shift})
        self.drop, self.act = getattr(batch, "drop", nn.Identity()), getattr(batch, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(super().forward(x)))
        return out


def _feature_dim(body: TimmBody, name: str, size: int, norm: str) -> int:
    """Return d. UserError for a network that cannot take the images, or that sees an image otherwise beside others."""
    device = next(body.parameters()).device
    x = torch.linspace(-1, 1, 3 * 3 * size * size, device=device).view(3, 3, size, size)
    try:
        with torch.no_grad():
            features = body.eval()(x)
            body.train()
            shown = [body(x[[0, other]])[0] for other in (1, 2)] if norm != "batch" else []
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise UserError(f"model.name={name}: takes no images of data.size={size}: {error}") from error
    if features.ndim != 2:
        raise UserError(f"model.name={name}: gives features {list(features.shape[1:])} of an image; want one row, pooled")
    if shown and device.type != "meta" and not torch.allclose(shown[0], shown[1], rtol=1e-3, atol=1e-4):
        raise UserError(
            f"model.name={name}: sees an image otherwise beside other images, though model.norm={norm} leaves no BatchNorm; set "
            "model.norm=batch, without differential privacy, or take another network"
        )
    return int(features.shape[1])
