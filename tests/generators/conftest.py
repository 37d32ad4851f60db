"""Tiny BigGANs in the published file format, and the fonts that matplotlib carries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import get_data_path

TINY = {
    "output_dim": 32,
    "z_dim": 4,
    "class_embed_dim": 4,
    "channel_width": 8,
    "num_classes": 5,
    "n_stats": 11,
    "eps": 1e-4,
    "layers": [[True, 16, 8], [True, 8, 4], [False, 4, 2], [True, 2, 1]],
    "attention_layer_position": 2,
}


@pytest.fixture
def write_biggan(tmp_path: Path) -> Callable[..., Path]:
    """Return a writer of a random BigGAN folder; spectral norm settled, statistics that differ by row."""
    from pytorch_pretrained_biggan import BigGAN, BigGANConfig
    from pytorch_pretrained_biggan.model import BigGANBatchNorm

    def write(name: str = "tiny", half: bool = False, **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = {**TINY, **changes}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = BigGAN(BigGANConfig.from_dict(config))
            torch.nn.init.ones_(model.generator.bn.weight)
            torch.nn.init.zeros_(model.generator.bn.bias)
            for module in model.modules():
                if isinstance(module, BigGANBatchNorm):
                    module.running_means.normal_(0, 0.1)
                    module.running_vars.uniform_(0.2, 0.4)
            labels = torch.eye(config["num_classes"])[:2]
            with torch.no_grad():
                for _ in range(10):
                    model(torch.randn(2, config["z_dim"]), labels, 1.0)
        state = {key: value.half() if half else value for key, value in model.state_dict().items()}
        torch.save(state, folder / "pytorch_model.bin")
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return write


@pytest.fixture(scope="session")
def fonts() -> Path:
    """Return a folder with a few dozen real fonts."""
    return Path(get_data_path()) / "fonts" / "ttf"
