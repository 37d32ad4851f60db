"""What a generator G is: (z, soft foundation label) -> image in [-1, 1], frozen and differentiable in both inputs."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.errors import UserError
from mpssl_fed.registry import Registry
from mpssl_fed.seeds import initialising

CUT = 2.0  # latents are cut at two standard deviations, as BigGAN's truncated noise is
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what PIL's "L" uses

Loader = Callable[[str | Path | None, float], "Generator"]
"""(path or None, truncation) -> Generator on the CPU: what a name in ``GENERATORS`` stands for."""

GENERATORS: Registry[Loader] = Registry("generators")


class Generator(nn.Module, ABC):
    """A frozen conditional image generator.

    Attributes: ``name``; ``z_dim``, the latent width; ``classes``, the names of its K foundation labels; ``size``, the
    side of its square images in pixels; ``channels`` (3); ``truncation`` in (0, 1], the scale of the latents it expects.
    """

    name: str
    z_dim: int
    classes: tuple[str, ...]
    size: int
    channels: int = 3
    truncation: float

    @abstractmethod
    def forward(self, z: Tensor, soft_label: Tensor) -> Tensor:
        """Map z [n, z_dim] and soft_label [n, K] (rows sum to 1) to images [n, 3, size, size] in [-1, 1]."""

    def sample_z(self, n: int, rng: torch.Generator) -> Tensor:
        """Return n latents [n, z_dim] on the module's device: truncation x N(0, 1) cut at 2, drawn from the CPU ``rng``.

        By the inverse distribution function, so the same number of draws is used whatever their values.
        """
        edge = torch.special.ndtr(torch.tensor(CUT, dtype=torch.float64))
        uniform = torch.rand(n, self.z_dim, generator=rng, dtype=torch.float64)
        z: Tensor = torch.special.ndtri((1 - edge) + uniform * (2 * edge - 1)).clamp(-CUT, CUT)
        reference = next(self.parameters())
        return (self.truncation * z).to(device=reference.device, dtype=reference.dtype)

    def state_hash(self) -> str:
        """Return the SHA-256, in hex, of every parameter and buffer with its name, type and shape.

        It depends neither on the device nor on the memory layout: two generators with one hash draw the same images.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def load_generator(
    name: str, path: str | Path | None = None, truncation: float = 1.0, device: str | torch.device = "cpu"
) -> Generator:
    """Return the generator ``name``, ready to use: eval mode, frozen, spectral norm folded, channels-last, on ``device``.

    ``path`` is a folder that overrides where the name is looked for (the name ``biggan`` always needs it). UserError for
    an unknown name, missing or unfit files, a truncation outside (0, 1] or off the rows the file has statistics for, or
    another package's generator that is none (:func:`check_generator`).
    """
    if not 0 < truncation <= 1:
        raise UserError(f"generator.truncation is {truncation}; it must be above 0 and at most 1.")
    with initialising():  # weights are drawn before those of the files replace them
        generator = GENERATORS[name](path, truncation)
    if GENERATORS.is_plugin(name):
        check_generator(f"generator '{name}' of another package", generator)
    generator.eval().requires_grad_(False)
    return generator.to(torch.device(device)).to(memory_format=torch.channels_last)


def check_generator(where: str, generator: object) -> None:
    """Draw a few images from someone's generator; UserError, beginning with ``where``, unless it keeps the protocol.

    That is: the attributes of :class:`Generator` are there, images come as [n, 3, size, size] for more than one n, finite
    and in [-1, 1], with a gradient to z and label.
    """
    if not isinstance(generator, Generator):
        raise UserError(f"{where} is a {type(generator).__name__}; its entry point must return a mpssl_fed.generators.Generator")
    lacking = [key for key in ("name", "z_dim", "classes", "size", "truncation") if not hasattr(generator, key)]
    if lacking:
        raise UserError(f"{where} lacks the attribute(s) {', '.join(lacking)}; see docs/extending.md")
    if len(generator.classes) < 2 or generator.channels != 3:
        raise UserError(f"{where} has {len(generator.classes)} class(es) and {generator.channels} channels; want 2 or more, and 3")
    generator.eval()
    for n in (1, 2):  # an exported program may have learned one batch size by heart
        try:
            z = generator.sample_z(n, torch.Generator().manual_seed(0)).requires_grad_()
            label = torch.full((n, len(generator.classes)), 1 / len(generator.classes), dtype=z.dtype, requires_grad=True)
            images = generator(z, label)
        except (RuntimeError, ValueError, TypeError, IndexError, StopIteration, AssertionError) as error:
            raise UserError(
                f"{where} failed to draw images from z [{n}, {generator.z_dim}] and soft labels [{n}, {len(generator.classes)}]: "
                f"{type(error).__name__}: {error}"
            ) from error
    want = [2, 3, generator.size, generator.size]
    if not isinstance(images, Tensor) or list(images.shape) != want:
        got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise UserError(f"{where} gives images {got}; want {want}, by its attributes channels and size")
    if not images.isfinite().all():
        raise UserError(f"{where} gives images that are not finite; its weights are damaged, or their training diverged")
    low, high = float(images.detach().min()), float(images.detach().max())
    if low < -1.001 or high > 1.001:
        raise UserError(f"{where} gives pixels from {low:.3g} to {high:.3g}; want [-1, 1], as from tanh")
    gradients = torch.autograd.grad(images.sum(), [z, label], allow_unused=True) if images.requires_grad else (None, None)
    for what, gradient in zip(("z", "the soft label"), gradients, strict=True):
        if gradient is None or not gradient.isfinite().all():
            raise UserError(f"{where}: no finite gradient from its images to {what}; latent meta-optimisation needs one")


def fit_images(x: Tensor, channels: int, size: int) -> Tensor:
    """Return images x [n, C, H, W] as [n, channels, size, size]; differentiable, range kept, C and channels 1 or 3.

    Bilinear, antialiased when shrinking. Colour becomes grey by BT.601 luma, grey becomes colour by repetition.
    ValueError for another number of channels.
    """
    if {x.shape[1], channels} - {1, 3}:
        raise ValueError(f"images have 1 or 3 channels, not {x.shape[1]} -> {channels}")
    if x.shape[1] > channels:
        x = (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if x.shape[-2:] != (size, size):
        shrinking = min(x.shape[-2:]) > size
        x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=shrinking)
    return x.expand(-1, channels, -1, -1) if x.shape[1] < channels else x
