"""The converter without a gradient: softmax of minus the squared distances of mean features. A rival of LMO, and a start for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.method.private_data import PrivateData
from mpssl_fed.method.selection import closed_form_logits
from mpssl_fed.method.sources import SOURCES, Chosen, Random
from mpssl_fed.models import Classifier
from mpssl_fed.seeds import torch_rng

AT_ONCE = 64  # images that go through the generator and the classifier together


@torch.no_grad()
def closed_form(source: Random, classifier: Classifier, private: PrivateData) -> Tensor:
    """Return the converter's logits [K, K_F], on the CPU in float64, at the weights of the classifier.

    -|| mean g(x_y) - mean g(G(z, c)) ||^2 for each task class y and generator class c, unbiased by the variance of the second
    mean, which is of ``latent.probes`` images at the same z in every round; 0 throughout for a class that the site does not have.
    """
    probes, foundation = source.method.latent.probes, len(source.generator.classes)
    rng, theta = torch_rng(source.task.seed, "closed form"), classifier.theta()
    means, noise = [], []
    for classes in torch.split(torch.arange(foundation), max(1, AT_ONCE // probes)):
        label = F.one_hot(classes.repeat_interleave(probes), foundation).to(source.task.device, source.task.dtype)
        x = source.generate(source.generator.sample_z(len(label), rng).to(source.task.dtype), label)
        with classifier.running_statistics():
            features = torch.unflatten(classifier.features(theta, x), 0, (len(classes), probes)).double().cpu()  # [c, probes, d]
        means.append(features.mean(1))
        noise.append(features.var(1).sum(1) / probes)
    real = private.class_features(theta)
    distances = torch.cdist(real.values.double().cpu(), torch.cat(means)).square() - torch.cat(noise)  # [K, K_F]
    return closed_form_logits(distances) * real.present.cpu().unsqueeze(1)


class ClosedForm(Chosen):
    """Classes drawn by the closed form at the weights that each round starts from."""

    def prepare(self, classifier: Classifier, private: PrivateData) -> None:
        """Take the mean features of the site's classes."""
        self.chosen = closed_form(self, classifier, private).softmax(1)

    def state(self) -> dict[str, Tensor]:
        """Return the buffer and the rows."""
        return super().state() | {"chosen": self.chosen}

    def load(self, state: dict[str, Tensor]) -> None:
        """Set what :meth:`state` returned."""
        super().load(state)
        self.chosen = state["chosen"]


def _uniform(relevant: Tensor) -> Tensor:
    return torch.full(relevant.shape, 1 / relevant.shape[1], dtype=torch.float64)


SOURCES.add("closed-form")(lambda method, task, generator, _: ClosedForm(method, task, generator, _uniform))
