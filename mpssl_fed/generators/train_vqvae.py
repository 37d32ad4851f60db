"""The VQ-VAE on renders of glyphs, then its prior."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.generators.fit import Report, ink_loss
from mpssl_fed.generators.glyphs import NUISANCES, GlyphBank
from mpssl_fed.generators.renders import EMBEDDING_NOISE, FontEmbedding, truncated_normal
from mpssl_fed.generators.settings import SmallSettings
from mpssl_fed.generators.small_training import PoolTraining, weights_of
from mpssl_fed.generators.vqvae import Encoder, VQSampler, nearest

COMMITMENT = 0.25  # the weight of the encoder's pull to its code, as in the paper


class VQVAETraining(PoolTraining):
    """First the VQ-VAE on images, then its prior on the codes of renders whose nuisances and font embedding are z."""

    def __init__(self, sampler: VQSampler, bank: GlyphBank, settings: SmallSettings) -> None:
        super().__init__(bank, settings)
        codes, code_dim = sampler.codebook.shape
        self.sampler, self.encoder = sampler, Encoder(code_dim)
        self.fonts = FontEmbedding(bank, settings.config(self.pool.classes)["z_dim"] - NUISANCES)
        self.used = torch.zeros(codes, dtype=torch.bool)

    def train(self, report: Report) -> dict[str, Any]:
        """Train both stages and return a record of them; Ctrl-C ends the last one early."""
        sampler, first = self.sampler, max(1, self.settings.iterations // 2)
        warm = max(1, first // 20)  # steps of a plain autoencoder, so that the codebook starts among real codes

        def reconstruct(step: int, index: Tensor) -> Tensor:
            x = self.pool.x(index)
            codes = self.encoder(x)
            if step == warm or (step > warm and step % 100 == 0 and step < first // 2):
                self._revive(codes, everything=step == warm)
            if step < warm:
                return ink_loss(sampler.decoder(codes), x)
            chosen = nearest(codes, sampler.codebook)
            self.used[chosen] = True
            quantised = sampler.codebook[chosen].movedim(-1, 1)
            pull = F.mse_loss(quantised, codes.detach()) + COMMITMENT * F.mse_loss(codes, quantised.detach())
            return ink_loss(sampler.decoder(codes + (quantised - codes).detach()), x) + pull  # straight-through

        vqvae: list[Tensor] = [*self.encoder.parameters(), *sampler.decoder.parameters(), sampler.codebook]
        reconstruction = self.stage(vqvae, first, reconstruct).loss
        for weight in vqvae:
            weight.requires_grad_(False)

        def predict(_: int, index: Tensor) -> Tensor:
            x = self.pool.x(index)
            noise = EMBEDDING_NOISE * truncated_normal(self.rng, len(index), self.fonts.raw.shape[1])
            z = torch.cat([self.pool.nuisance[index], self.fonts()[self.pool.font[index]] + noise], 1)
            logits = sampler.prior(z, self.pool.one_hot(index))
            match = F.cross_entropy(logits, nearest(self.encoder(x), sampler.codebook))
            return ink_loss(sampler.decoder(sampler.mixture(logits)), x) + 0.05 * match

        prior = weights_of(sampler.label, sampler.mix, sampler.spread, sampler.refine, self.fonts)
        fitted = self.stage(prior, self.settings.iterations, predict, report)
        used = len(torch.unique(nearest(self.encoder(self.pool.x(slice(0, 2000))), sampler.codebook)))
        return {**fitted.record(), "reconstruction_loss": reconstruction, "codes_used": used}

    @torch.no_grad()
    def _revive(self, codes: Tensor, everything: bool) -> None:
        flat = codes.movedim(1, -1).flatten(0, 2)
        dead = torch.ones_like(self.used) if everything else ~self.used
        picks = torch.randint(len(flat), (int(dead.sum()),), generator=self.rng)
        self.sampler.codebook[dead] = flat[picks]
        self.used.zero_()
