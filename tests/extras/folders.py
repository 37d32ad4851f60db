"""Tiny random pipelines, saved by diffusers itself; the module is imported where the extra is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch

BLOCKS = {
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}


def network(channels: int = 3, classes: int = 5, side: int = 16, **more: Any) -> Any:
    """Return a random class-conditional UNet whose output is about as large as an image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
        given = {"in_channels": channels, "out_channels": channels, "num_class_embeds": classes, "sample_size": side}
        unet = diffusers.UNet2DModel(**{**BLOCKS, **blocks, **given, **more})
        torch.nn.init.normal_(unet.class_embedding.weight, std=3.0)
    return unet


def consistency(folder: Path, **more: Any) -> Path:
    """Write a consistency model with the blocks of the published ones and return its folder."""
    blocks = {
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
    }
    unet = network(**{**blocks, **more})
    diffusers.ConsistencyModelPipeline(unet, diffusers.CMStochasticIterativeScheduler()).save_pretrained(folder)
    return folder


def ddpm(folder: Path, channels: int = 1, **settings: Any) -> Path:
    """Write a DDPM, whose scheduler has ``settings``, and return its folder."""
    scheduler = diffusers.DDPMScheduler(**{"timestep_spacing": "trailing", **settings})
    diffusers.DDPMPipeline(network(channels), scheduler).save_pretrained(folder)
    return folder


def ddim(folder: Path, **settings: Any) -> Path:
    """The same of a DDIM of red, green and blue."""
    scheduler = diffusers.DDIMScheduler(**{"timestep_spacing": "trailing", **settings})
    diffusers.DDIMPipeline(network(3), scheduler).save_pretrained(folder)
    return folder
