"""What a site trains with is handed to it: two sites in one process, at work at once, do not mix, no module keeps their data."""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mpssl_fed.federation
from mpssl_fed.config import Config
from mpssl_fed.deployment import wire
from mpssl_fed.deployment.own_data import OwnData
from mpssl_fed.deployment.private_shares import write_share
from mpssl_fed.deployment.resident import Resident
from mpssl_fed.federation import parts
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.privacy.policy import Policy
from tests.real.sites import POLICY, equal, message, tiny, weights

CONFIG = tiny("federation.local_steps=2")
PATIENT_S = 120.0

CACHES = {
    "parts._dataset": "a data set by its name and how it is prepared",
    "parts._cached_split": "who holds what, by the config of a simulation",
    "parts._generator": "a frozen generator by its files",
    "parts._pattern": "a classifier with seeded weights that is only copied",
    "messages._parsed": "a frozen config by its text",
    "site.site._run_keys": "names of keys by the schema alone",
    "weights.npy_header": "the first bytes of a file by the array's shape",
    "server.warm._trained": "weights trained on synthetic images, by the config",
}
"""What modules keep, and why that cannot depend on a message's site: the key says all that the value follows from."""


def _site(folder: Path, listing: Path) -> Resident:
    assert CONFIG.data.task is not None
    data = OwnData(listing, CONFIG.data.task.classes, channels=1)
    return Resident(0, folder, data, Policy.model_validate(POLICY))


def _reply(site: Resident, number: int) -> wire.Arrays:
    return wire.unpack(site.train(message(CONFIG, weights(CONFIG), number)), "metrics")[0]


def test_two_sites_in_one_process_at_once_do_not_mix(tmp_path: Path) -> None:
    """Same number, same message, other images: each answers as it does alone, whichever was made or asked last."""
    listings = [write_share(tmp_path / f"images{share}", CONFIG, share) for share in (0, 1)]
    alone = [_reply(_site(tmp_path / f"alone{share}", listings[share]), 1) for share in (0, 1)]
    assert not equal(alone[0], alone[1])

    both = [_site(tmp_path / f"both{share}", listings[share]) for share in (0, 1)]
    found: dict[int, wire.Arrays] = {}
    start = threading.Barrier(2)

    def ask(share: int) -> None:
        start.wait(PATIENT_S)
        found[share] = _reply(both[share], 1)

    threads = [threading.Thread(target=ask, args=(share,)) for share in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENT_S)
    assert all(equal(found[share], alone[share]) for share in (0, 1))


def test_no_message_names_the_images_of_a_site_that_brings_its_own() -> None:
    """Neither the data set that the config names nor ``ssl-real`` reaches a site's parts."""
    images = parts.dataset(CONFIG).train.take(range(7))
    mine = parts.own(CONFIG, images, None)
    assert mine.labelled is images
    assert mine.unlabeled is None
    with pytest.raises(Refusal, match="policy"):
        parts.own(CONFIG.model_copy(update={"method": CONFIG.method.model_copy(update={"source": "real"})}), images, None)


def test_each_site_has_a_classifier_of_its_own(tiny: Callable[..., Config]) -> None:
    config = tiny()
    one, two = parts.simulated(config, 0), parts.simulated(config, 0)
    with torch.no_grad():
        one.classifier.head.weight.zero_()
    assert bool(two.classifier.head.weight.any())
    assert torch.equal(parts.initial_classifier(config).head.weight, two.classifier.head.weight)


def test_no_state_of_a_module_stands_between_a_message_and_data() -> None:
    """Modules keep constants and the caches listed above; no function rebinds a name or sets an attribute of a module's object.

    A ``cached_property`` lives and ends with its own object.
    """
    root = Path(mpssl_fed.federation.__file__).parent
    caches, wrong = set(), []
    for file in sorted(root.rglob("*.py")):
        tree, name = ast.parse(file.read_text(encoding="utf-8")), ".".join(file.relative_to(root).with_suffix("").parts)
        of_module = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        of_module |= {t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)}
        for node in ast.walk(tree):
            decorators = [ast.unparse(one) for one in getattr(node, "decorator_list", [])]
            if isinstance(node, ast.FunctionDef) and any("cache" in one and one != "cached_property" for one in decorators):
                caches.add(f"{name}.{node.name}")
            if isinstance(node, ast.Global | ast.Nonlocal):
                wrong.append(f"{name}: {ast.unparse(node)}")
            if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    whose = target
                    while isinstance(whose, ast.Attribute | ast.Subscript):
                        whose = whose.value
                    if whose is not target and isinstance(whose, ast.Name) and whose.id in of_module:
                        wrong.append(f"{name}: {ast.unparse(node)}")
    assert not wrong
    assert caches == CACHES.keys()
