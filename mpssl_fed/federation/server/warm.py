"""The warm start of a run's classifier. A process that runs cells of a study trains it once for those that share it."""

from __future__ import annotations

from functools import lru_cache

from mpssl_fed.config import Config, from_json
from mpssl_fed.config.data import Data
from mpssl_fed.config.federation import Federation, Privacy
from mpssl_fed.config.learning import Method, Optim
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.method.warm_start import warm_start
from mpssl_fed.models import Classifier, Params
from mpssl_fed.watch import tell


def start_warm(config: Config, classifier: Classifier) -> None:
    """Set the weights that the warm start of ``config`` gives; nothing where ``warm_start.part`` is none."""
    if config.warm_start.part != "none":
        classifier.load_state_dict(_trained(_all_it_depends_on(config)))


def _all_it_depends_on(config: Config) -> str:
    """Return the config as canonical JSON with every section at its default that a warm start does not read."""
    of_data = {key: getattr(config.data, key) for key in ("name", "root", "size", "subjects", "download", "task")}
    unread = {
        "data": Data().model_copy(update=of_data),
        "method": Method.model_validate({"name": "base"}),
        "optim": Optim(),
        "federation": Federation(),
        "privacy": Privacy(),
        "model": config.model.model_copy(update={"trainable": "all"}),
    }
    return config.model_copy(update=unread).canonical_json()


@lru_cache(maxsize=8)
def _trained(config_json: str) -> Params:
    config = from_json(config_json)
    generator = parts.generator(config)
    if generator is None:
        raise UserError("warm_start.part: the run has no generator")
    classifier = parts.initial_classifier(config)
    warm_start(config, classifier, generator, parts.dataset(config).flip, tell)
    return {name: tensor.detach().clone() for name, tensor in classifier.state_dict().items()}
