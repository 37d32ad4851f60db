"""Train a small BigGAN in minutes: regress G(z, class) on a glyph renderer whose nuisances and font embedding are z."""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from torch import Tensor, nn

from mpssl_fed.generators.baking import bake, stream_classes
from mpssl_fed.generators.batch_statistics import batch_statistics
from mpssl_fed.generators.fit import Course, Report, fit, ink_loss
from mpssl_fed.generators.glyphs import GlyphBank
from mpssl_fed.generators.renders import EMBEDDING_NOISE, FontEmbedding, RenderStream, truncated_normal
from mpssl_fed.generators.settings import DistilSettings
from mpssl_fed.seeds import initialising, seed_of, torch_rng


def distil(bank: GlyphBank, settings: DistilSettings, report: Report) -> tuple[BigGAN, dict[str, Any]]:
    """Train on ``bank`` and return the baked generator (weights exact in float16) and a record of the training.

    Ctrl-C during training ends it early with what has been learned; the record says so.
    """
    started = time.process_time()
    with initialising(seed_of(settings.seed, "distil", "initial weights")):
        model = BigGAN(BigGANConfig.from_dict(settings.config(len(bank.classes))))
        fonts = FontEmbedding(bank, settings.embedding)
    nn.init.ones_(model.generator.bn.weight)
    nn.init.zeros_(model.generator.bn.bias)
    average = copy.deepcopy(model)
    record = _train(model, average, fonts, RenderStream(bank, torch_rng(settings.seed, "distil", "renders")), settings, report)
    record["training_cpu_seconds"] = round(time.process_time() - started, 1)
    bake(average, settings)
    record["baking_cpu_seconds"] = round(time.process_time() - started - record["training_cpu_seconds"], 1)
    return average, record


def _train(
    model: BigGAN, average: BigGAN, fonts: FontEmbedding, stream: RenderStream, settings: DistilSettings, report: Report
) -> dict[str, Any]:
    half = settings.iterations / 2
    model.train().to(memory_format=torch.channels_last)
    model.generator.tanh = nn.Identity()  # the loss wants logits

    def loss_of(_: int) -> Tensor:
        x, y, font, nuisance = stream.draw(settings.batch)
        noise = EMBEDDING_NOISE * truncated_normal(stream.rng, settings.batch, settings.embedding)
        z = torch.cat([nuisance, fonts()[font] + noise], 1)
        return ink_loss(model(z, F.one_hot(y, stream_classes(model)).float(), 1.0), x)

    with batch_statistics(model):
        fitted = fit(
            [*model.parameters(), *fonts.parameters()],
            loss_of,
            Course(
                settings.iterations,
                settings.learning_rate,
                lambda i: 0.5 + 0.5 * math.cos(math.pi * max(0.0, i / half - 1)) if i else 0.1,
                settings.ema,
            ),
            report,
        )
    with torch.no_grad():
        for weight, mean in zip(average.parameters(), fitted.average, strict=False):  # the fonts' average is not kept
            weight.copy_(mean)
    return fitted.record()
