"""Train the VQ-VAE and the few-step flow on renders of glyphs, in minutes on one core."""

from __future__ import annotations

import time
from typing import Any

from torch import nn

from mpssl_fed.generators.baking import round_to_half
from mpssl_fed.generators.fit import Report
from mpssl_fed.generators.glyphs import GlyphBank
from mpssl_fed.generators.settings import SmallSettings
from mpssl_fed.generators.small import build_sampler
from mpssl_fed.generators.train_flow import FlowTraining
from mpssl_fed.generators.train_vqvae import VQVAETraining
from mpssl_fed.generators.vqvae import VQSampler
from mpssl_fed.seeds import initialising, seed_of


def train_small(bank: GlyphBank, settings: SmallSettings, report: Report) -> tuple[nn.Module, dict[str, Any]]:
    """Return the trained sampler (weights exact in float16) and a record of the training.

    Ctrl-C while the last network trains ends it early with what has been learned; the record says so.
    """
    started = time.process_time()
    with initialising(seed_of(settings.seed, settings.kind, "initial weights")):
        sampler = build_sampler(settings.config(len(bank.classes)))
        work = VQVAETraining(sampler, bank, settings) if isinstance(sampler, VQSampler) else FlowTraining(sampler, bank, settings)
    record = work.train(report)
    round_to_half(sampler)
    record["training_cpu_seconds"] = round(time.process_time() - started, 1)
    return sampler, record
