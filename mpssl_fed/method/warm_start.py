"""Warm start at the server, before round 1, from the public generator alone: no private byte is read, epsilon 0."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.config import Config
from mpssl_fed.config.learning import WarmStart
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.generators.base import Generator, fit_images
from mpssl_fed.method.views import Views
from mpssl_fed.models import Classifier
from mpssl_fed.seeds import initialising, torch_rng

Report = Callable[[str, int, int], None]
"""(stage, step, steps) -> shown progress."""


def warm_start(
    config: Config, classifier: Classifier, generator: Generator, flip: bool, report: Report = lambda *_: None
) -> Classifier:
    """Train ``warm_start.part`` of the classifier in place on synthetic images and return it.

    body: the body and a throw-away head learn to name all classes of the generator, but those of ``warm_start.without``. head: the
    head alone learns the task's classes from images of the generator's classes that map to them (``warm_start.class_map``, else
    equal names); a task class without one keeps its initial weights. both: body, then head. auto: `taught`. Seeded by the run.
    Raises UserError where the body has nothing to train or no class maps.
    """
    settings = config.warm_start
    part = taught(settings, generator.classes, classifier.classes)
    trainer = _Trainer(config, classifier, generator, Views(flip, classifier.size), report)
    if part in ("body", "both"):
        body = list(classifier.body.parameters())
        if not body:
            raise UserError(f"warm_start.part={part}: model '{classifier.name}' has no body to train; use part: head")
        with initialising(config.seed):
            throw_away = nn.Linear(classifier.feature_dim, len(generator.classes)).to(classifier.head.weight)
        learnt = body_classes(generator.classes, settings.without)
        trainer.run("body", learnt, learnt, throw_away, [*body, *throw_away.parameters()])
    if part in ("head", "both"):
        sources, targets = class_pairs(generator.classes, classifier.classes, settings.class_map)
        trainer.run("head", sources, targets, classifier.head, list(classifier.head.parameters()))
    return classifier


def taught(settings: WarmStart, generator_classes: tuple[str, ...], task_classes: tuple[str, ...]) -> str:
    """Return ``settings.part``; for ``auto``, both where each task class has one of the generator's, and body elsewhere.

    A head that knows some classes alone would begin biased against the others.
    """
    if settings.part != "auto":
        return settings.part
    named = set(settings.class_map.values() or generator_classes)
    return "both" if named.issuperset(task_classes) else "body"


def body_classes(generator_classes: tuple[str, ...], without: tuple[str, ...]) -> Tensor:
    """Return the numbers of the generator's classes that fit no pattern of ``without`` (as file names do: ``greek *``).

    UserError for a pattern that no class fits, and where fewer than two classes are left.
    """
    for pattern in without:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in generator_classes):
            raise UserError(f"warm_start.without: no class of the generator fits '{pattern}'.{nearest(pattern, generator_classes)}")
    left = [i for i, name in enumerate(generator_classes) if not any(fnmatch.fnmatchcase(name, pattern) for pattern in without)]
    if len(left) < 2:
        raise UserError(f"warm_start.without={list(without)} leaves {len(left)} of the generator's classes; want two or more")
    return torch.tensor(left)


def class_pairs(
    generator_classes: tuple[str, ...], task_classes: tuple[str, ...], class_map: Mapping[str, str]
) -> tuple[Tensor, Tensor]:
    """Return index tensors (generator classes, the task class of each); from the map, else from equal names."""
    for name, target in class_map.items():
        if name not in generator_classes:
            raise UserError(f"warm_start.class_map: the generator has no class '{name}'.{nearest(name, generator_classes)}")
        if target not in task_classes:
            raise UserError(f"warm_start.class_map: the task has no class '{target}'.{nearest(target, task_classes)}")
    pairs = class_map or {name: name for name in generator_classes if name in task_classes}
    if not pairs:
        raise UserError(
            "warm_start.part: no class of the generator has the name of a task class; write warm_start.class_map "
            "(generator class: task class) or use part: body"
        )
    sources = torch.tensor([generator_classes.index(name) for name in pairs])
    return sources, torch.tensor([task_classes.index(target) for target in pairs.values()])


class _Trainer:
    """AdamW with a cosine schedule on fresh, half strongly augmented synthetic images."""

    def __init__(self, config: Config, classifier: Classifier, generator: Generator, views: Views, report: Report) -> None:
        self.config, self.classifier, self.generator = config, classifier, generator
        self.augment, self.report = views.labelled("half-strong"), report

    def run(self, stage: str, sources: Tensor, targets: Tensor, head: nn.Module, parameters: list[nn.Parameter]) -> None:
        """Fit ``parameters`` so that head(body(x)) names ``targets`` for images of the classes ``sources``."""
        settings = self.config.warm_start
        rng, view_rng = torch_rng(self.config.seed, "warm start", stage), torch_rng(self.config.seed, "warm start views", stage)
        frozen = {id(p): p.requires_grad for p in self.classifier.parameters()}
        self.classifier.train()
        self.classifier.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimiser = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=0.01)
        for step in range(settings.steps):
            rate = settings.lr * min(1.0, (step + 1) / 10) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
            for group in optimiser.param_groups:
                group["lr"] = rate
            x, y = self._batch(sources, targets, settings.batch, rng)
            loss = F.cross_entropy(head(self.classifier.body(self.augment(x, view_rng))), y)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            self.report(stage, step + 1, settings.steps)
        for parameter in self.classifier.parameters():
            parameter.requires_grad_(frozen[id(parameter)])
            parameter.grad = None

    @torch.no_grad()
    def _batch(self, sources: Tensor, targets: Tensor, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        pick = torch.randint(len(sources), (n,), generator=rng)
        reference = self.classifier.head.weight
        label = F.one_hot(sources[pick], len(self.generator.classes)).to(reference)
        x = self.generator(self.generator.sample_z(n, rng).to(reference), label)
        return fit_images(x, self.classifier.channels, self.classifier.size), targets[pick].to(reference.device)
