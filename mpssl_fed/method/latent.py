"""The latents of MP-SSL: mapper M_phi (z, y) -> z' and label converter I_xi y -> soft foundation label. They stay at the site."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.config.learning import Latent
from mpssl_fed.seeds import initialising, seed_of

EDGE = 1 - 1e-6  # of the bound: where a z at the very bound is taken to lie


@dataclass(frozen=True)
class LatentDraw:
    """Random inputs of n images: z [n, z_dim], task labels y [n], uniform numbers [n, K_F] for the Gumbel noise."""

    z: Tensor
    y: Tensor
    uniform: Tensor

    def at(self, index: Tensor) -> LatentDraw:
        """Return the inputs of the images at ``index``."""
        here = index.to(self.z.device)
        return LatentDraw(self.z[here], self.y[here], self.uniform[here])


class Mapper(nn.Module):
    """z' = b tanh(artanh(z / b) + MLP([z, one_hot(y)]) / b), which no step takes beyond the bound b of the generator's latents.

    The last layer is zero at first, so that the mapper starts as the random source: z' = z.
    """

    def __init__(self, z_dim: int, classes: int, hidden: int, bound: float) -> None:
        super().__init__()
        self.classes, self.bound = classes, bound
        self.inner = nn.Linear(z_dim + classes, hidden)
        self.outer = nn.Linear(hidden, z_dim)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Map z [n, z_dim] in [-b, b] and task labels y [n] to z' [n, z_dim] in [-b, b]."""
        label = F.one_hot(y, self.classes).to(z.dtype)
        moved: Tensor = self.outer(F.silu(self.inner(torch.cat([z, label], 1))))
        return self.bound * ((z / self.bound).clamp(-EDGE, EDGE).atanh() + moved / self.bound).tanh()


class Converter(nn.Module):
    """y -> Gumbel-softmax of a row of K x K_F logits, all equal at first. hard: one-hot forward, soft backward."""

    def __init__(self, classes: int, foundation_classes: int, temperature: float, hard: bool) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(classes, foundation_classes))
        self.temperature, self.hard = temperature, hard

    def forward(self, y: Tensor, uniform: Tensor) -> Tensor:
        """Map task labels y [n] and uniform numbers [n, K_F] in [0, 1] to foundation labels [n, K_F]; rows sum to 1."""
        gumbel = -(-uniform.clamp(1e-6, 1 - 1e-6).log()).log()
        soft = F.softmax((self.table[y] + gumbel) / self.temperature, dim=1)
        if not self.hard:
            return soft
        one_hot = F.one_hot(soft.argmax(1), soft.shape[1]).to(soft.dtype)
        return one_hot - soft.detach() + soft


class Latents(nn.Module):
    """Mapper and converter of one site with their Adam optimiser."""

    def __init__(self, z_dim: int, classes: int, foundation_classes: int, bound: float, settings: Latent, seed: int = 0) -> None:
        super().__init__()
        with initialising(seed_of(seed, "latents")):
            self.mapper = Mapper(z_dim, classes, settings.hidden, bound)
            self.converter = Converter(classes, foundation_classes, settings.temperature, settings.hard)
        self.rates = [settings.mapper_lr] * len(list(self.mapper.parameters())) + [settings.converter_lr]
        self.steps = 0
        for index, parameter in enumerate(self.parameters()):
            self.register_buffer(f"first_{index}", torch.zeros_like(parameter))
            self.register_buffer(f"second_{index}", torch.zeros_like(parameter))

    def blocks(self) -> list[slice]:
        """Return where the parameters of the mapper, and where those of the converter, stand in ``parameters()``."""
        first = len(list(self.mapper.parameters()))
        return [slice(0, first), slice(first, first + len(list(self.converter.parameters())))]

    @torch.no_grad()
    def adam(self, gradient: list[Tensor], beta_1: float = 0.9, beta_2: float = 0.99, eps: float = 1e-8) -> None:
        """Take one Adam step (arXiv 1412.6980) along ``gradient``, one tensor a parameter, in their order.

        Written out because its moments are site state that lives in a state dictionary of plain tensors. torch.optim.Adam has the
        same moments to the bit, and weights that differ in their last one: it divides the root of the second by a root.
        """
        self.steps += 1
        for index, (parameter, g, rate) in enumerate(zip(self.parameters(), gradient, self.rates, strict=True)):
            first, second = self.get_buffer(f"first_{index}"), self.get_buffer(f"second_{index}")
            first.lerp_(g, 1 - beta_1)
            second.mul_(beta_2).addcmul_(g, g, value=1 - beta_2)
            scale = (second / (1 - beta_2**self.steps)).sqrt().add_(eps)
            parameter.addcdiv_(first, scale, value=-rate / (1 - beta_1**self.steps))

    def state(self) -> dict[str, Tensor]:
        """Return copies of everything that continues from round to round."""
        state = {key: value.detach().cpu().clone() for key, value in self.state_dict().items()}
        return state | {"steps": torch.tensor(self.steps)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Set what :meth:`state` returned."""
        state = dict(state)
        self.steps = int(state.pop("steps"))
        self.load_state_dict(state)
