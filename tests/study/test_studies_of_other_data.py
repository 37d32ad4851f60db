"""The studies of data that are not installed: their plan, and an arm of each on files of the same format that the test writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mpssl_fed
from mpssl_fed.federation import parts
from mpssl_fed.method.selection import relevance
from mpssl_fed.runs.reader import RunReader
from mpssl_fed.study.dry_run.built import smallest_share
from mpssl_fed.study.dry_run.known_data import known_data
from mpssl_fed.study.grid import Plan, load_study
from mpssl_fed.study.measured import row_of_run
from tests.data.test_omniglot import LETTERS, files, pack

SOURCES = ("random", "oracle", "anti-oracle", "closed-form")


def cells_folder(root: Path, slides: int = 12) -> Path:
    """Write train/CLASS/SLIDE/*.png, two cells of each of three classes a slide: a disc whose size tells its class."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48] - 24
    for slide in range(slides):
        for radius, name in ((6, "platelets"), (12, "rbc"), (19, "wbc")):
            folder = root / "train" / name / f"{slide:05d}"
            folder.mkdir(parents=True)
            for number in range(2):
                pixels = rng.integers(170, 230, (48, 48, 3), dtype=np.uint8)
                pixels[np.hypot(x, y) < radius] -= 120
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def arms(plan: Plan) -> set[str]:
    return {str(cell.settings["variant"]) for cell in plan.cells}


def test_the_study_of_cells_has_each_arm_with_and_without_privacy() -> None:
    plan = load_study("cells")
    kinds = {"base", "federated-gssl", "mp-ssl", "efficientnet head", "pixels", "hog"}
    assert arms(plan) == kinds | {f"private {kind}" for kind in kinds} | {"efficientnet head, anchor"}
    for cell in plan.cells:
        config = cell.config
        assert (config.federation.sites, config.data.subjects) == (3, "parent")
        private = str(cell.settings["variant"]).startswith("private")
        assert (config.privacy.scope, config.privacy.epsilon) == (("end-to-end", 2) if private else ("off", None))
        assert not private or config.privacy.unit == "subject"
    assert {cell.config.data.labels_per_class for cell in plan.cells} == {4, 20}


@pytest.mark.parametrize("variant", ["hog", "private pixels"])
def test_an_arm_of_cells_runs_on_slides_and_is_scored_by_class(variant: str, tmp_path: Path) -> None:
    plan = load_study("cells", [f"data.root={cells_folder(tmp_path / 'cells')}", "federation.rounds=1", "federation.local_steps=8"])
    cell = next(one for one in plan.cells if one.settings["variant"] == variant and one.config.data.labels_per_class == 4)
    run = mpssl_fed.simulate(cell.config, output=tmp_path / "run")
    row = row_of_run(cell, run.folder, 2)
    last = RunReader(run.folder).rounds[-1]
    assert (row.balanced_accuracy, row.auroc) == (last.balanced, last.auroc)
    assert row.has(plan.study.metric)
    assert 0 <= row.value(plan.study.metric) <= 1
    if variant == "hog":
        assert row.value("auroc") > 0.7  # chance is 1/2


def test_the_study_of_selection_is_the_gate_alone() -> None:
    plan = load_study("selection")
    assert arms(plan) == {"base", *(f"{source} + {loss}" for source in SOURCES for loss in ("scr", "vicreg"))}
    assert len(plan.cells) == 9 * 10
    for cell in plan.cells:
        assert cell.config.warm_start.without == ("greek *",)
        assert cell.config.federation.rounds * cell.config.federation.local_steps >= 2 * 500
    named = [(plan.arms()[one]["variant"], plan.arms()[other]["variant"]) for one, other in plan.primary()]
    assert named == [(f"oracle + {loss}", f"random + {loss}") for loss in ("scr", "vicreg")]
    known = (*(f"greek {letter}" for letter in "Ααβω"), "texture dots-1")
    assert relevance(known, LETTERS["Greek"], {}).any(0).tolist() == [False, True, True, True, False]


def test_its_arms_run_on_drawings(tmp_path: Path) -> None:
    """With a generator of letters in the broad one's place, three of which are said to show the drawings."""
    pack(tmp_path, "images_background", files("Greek", 3))
    show = "{β: 'Greek 01', λ: 'Greek 02', μ: 'Greek 03'}"
    short = [
        "federation.rounds=1",
        "federation.local_steps=2",
        "warm_start.steps=2",
        "warm_start.without=[β, λ, μ]",
        "method.batch=8",
    ]
    plan = load_study("selection", [f"data.root={tmp_path}", "generator.name=glyphs-letters", f"method.relevant={show}", *short])
    for variant in ("random + scr", "oracle + vicreg", "closed-form + scr"):
        cell = next(one for one in plan.cells if one.settings["variant"] == variant)
        run = mpssl_fed.simulate(cell.config, output=tmp_path / variant)
        assert run.history[-1].generated


def test_a_dry_run_deals_whole_slides_as_the_run_does(tmp_path: Path) -> None:
    cell = load_study("cells", [f"data.root={cells_folder(tmp_path / 'cells', slides=9)}", "data.partition.name=quantity"]).cells[0]
    known = known_data(cell.config)
    assert known is not None
    assert known.subjects is not None
    assert known.labels().tolist() == parts.dataset(cell.config).train.y.tolist()
    assert smallest_share(cell.config, known) == min(map(len, parts.shares(cell.config)))
    tuned = cell.config.model_copy(update={"data": cell.config.data.model_copy(update={"held_out": "validation"})})
    assert known.validation_split(tuned.data.held_out_fraction).counts == tuple(parts.dataset(tuned).train.y.bincount().tolist())
