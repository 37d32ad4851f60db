"""What, with the fonts, decides the training of a generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpssl_fed.generators.glyphs import IMAGE_SIZE, NUISANCES


@dataclass(frozen=True)
class DistilSettings:
    """Everything that, with the fonts, decides the result. ``embedding`` + 11 nuisances make up z."""

    iterations: int = 4000
    seed: int = 0
    channel_width: int = 16
    embedding: int = 9
    batch: int = 24
    learning_rate: float = 4e-3
    ema: float = 0.995
    n_stats: int = 11
    bake_images: int = 720

    @property
    def z_dim(self) -> int:
        """Width of the latent: font embedding plus renderer nuisances."""
        return self.embedding + NUISANCES

    def config(self, classes: int) -> dict[str, Any]:
        """Return the BigGAN config.json of a 32 x 32 generator with four blocks and no attention."""
        return {
            "output_dim": IMAGE_SIZE,
            "z_dim": self.z_dim,
            "class_embed_dim": self.z_dim,
            "eps": 1e-4,
            "channel_width": self.channel_width,
            "num_classes": classes,
            "n_stats": self.n_stats,
            "layers": [[True, 16, 8], [True, 8, 4], [False, 4, 2], [True, 2, 1]],
            "attention_layer_position": -1,
        }


@dataclass(frozen=True)
class SmallSettings:
    """Everything that, with the fonts, decides the result. ``iterations`` are those of the last network trained."""

    kind: str
    iterations: int
    seed: int = 0
    batch: int = 96
    learning_rate: float = 2e-3
    renders: int = 40_000
    ema: float = 0.998

    def config(self, classes: int) -> dict[str, Any]:
        """Return config.json."""
        common = {"kind": self.kind, "size": IMAGE_SIZE, "num_classes": classes}
        if self.kind == "vqvae":
            return {**common, "z_dim": 9 + NUISANCES, "hidden": 256, "width": 96, "codes": 128, "code_dim": 16}
        return {**common, "z_dim": 64, "hidden": 320, "steps": 4}
