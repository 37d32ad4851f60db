"""The last step of a BigGAN's training: float16 weights and the running statistics of every truncation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pytorch_pretrained_biggan import BigGAN
from torch import nn

from mpssl_fed.generators.batch_statistics import batch_statistics
from mpssl_fed.generators.renders import truncated_normal
from mpssl_fed.generators.settings import DistilSettings
from mpssl_fed.seeds import torch_rng


def stream_classes(model: BigGAN) -> int:
    """Return how many foundation labels a BigGAN takes."""
    return int(model.config.num_classes)


@torch.no_grad()
def bake(model: BigGAN, settings: DistilSettings) -> None:
    """Round the weights to float16, settle spectral norm, then store running statistics for every truncation row.

    In this order, so that the saved float16 file is the very generator whose statistics were taken. Row i belongs to
    truncation i / (n_stats - 1); row 0 (truncation 0, never asked for) repeats row 1.
    """
    rng = torch_rng(settings.seed, "distil", "bake")
    classes = stream_classes(model)
    model.to(memory_format=torch.channels_last)
    round_to_half(model)
    labels = F.one_hot(torch.arange(settings.bake_images) % classes, classes).float()
    with batch_statistics(model) as norms:
        model.train()
        for _ in range(30):  # each forward in train mode is one power iteration
            model(truncated_normal(rng, 2, settings.z_dim), labels[:2], 1.0)
        round_to_half(model)
        model.eval()
        z = truncated_normal(rng, settings.bake_images, settings.z_dim)
        for row in range(1, settings.n_stats):
            truncation = row / (settings.n_stats - 1)
            model(truncation * z, labels, truncation)
            for norm in norms:
                norm.running_means[row], norm.running_vars[row] = norm.last
                if row == 1:
                    norm.running_means[0], norm.running_vars[0] = norm.last
        for norm in norms:
            del norm.last
    round_to_half(model)


def round_to_half(model: nn.Module) -> None:
    """Round parameters and buffers to what a float16 file holds; their type stays."""
    for tensor in model.state_dict().values():
        tensor.copy_(tensor.half().float())
