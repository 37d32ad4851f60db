"""By what a site's ledger knows its images again: files and subjects, whatever a server asks and however the owner tidies up."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpssl_fed import config as configs
from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.data.folder import load_site_csv, load_site_folder
from mpssl_fed.deployment.own_data import OwnData
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.site.budget import Budget, Unaccounted, identities, policy_budget
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.policy import Policy

CLASSES = ("cat", "dog")
POLICY = Policy(
    dataset="pets", public_size=20, max_epsilon=50, delta=1e-3, max_sample_rate=1, max_clip=2, max_rounds=9, methods=("base",)
)


def asked(*overrides: str) -> Config:
    fields = {
        "data": {"name": "none", "task": {"classes": list(CLASSES), "size": 16, "channels": 1}},
        "method": {"name": "base"},
        "privacy": {"epsilon": 4.0, "delta": 1e-3, "public_size": 20, "sample_rate": 1.0},
        "federation": {"rounds": 5, "local_steps": 2},
    }
    return configs.from_mapping(configs.override(fields, overrides))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three cats and three dogs of 20 pixels, no two alike."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (20, 24), dtype=np.uint8)).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


def listed(folder: Path, subjects: list[str]) -> Path:
    """Write a CSV file of all images in order, with a subject each."""
    files = sorted(folder.rglob("*.png"))
    rows = [f"{path.relative_to(folder)},{path.parent.name},{one}" for path, one in zip(files, subjects, strict=True)]
    (folder / "list.csv").write_text("\n".join(["path,label,subject", *rows]))
    return folder / "list.csv"


def granted(policy: Policy, config: Config, path: Path) -> Budget:
    budget = policy_budget(policy, config, path)
    assert isinstance(budget, Budget)
    return budget


@pytest.fixture
def budget(tmp_path: Path) -> Budget:
    return granted(POLICY, asked(), tmp_path / "ledger.sqlite")


def charge(budget: Budget, number: int, images: Images) -> list[dict[str, int]]:
    """Charge a round and return the kinds that each row of records added."""
    budget.reserve("run", number, number == 1, images)
    assert isinstance(budget.books.ledger, Path)
    return [row.body["kinds"] for row in Ledger(budget.books.ledger).rows() if row.kind == "records"]


@pytest.mark.parametrize("shape", ["size=8", "size=64", "stored_size=20", "channels=3", "fit=pad", "window={center: 4, width: 9}"])
def test_another_shape_than_the_owners_is_refused_before_an_image_is_read(folder: Path, shape: str) -> None:
    data = OwnData(folder, CLASSES, None, 16, 1)
    with pytest.raises(Refusal, match="image-shape"):
        data.labelled(asked(f"data.task.{shape}"))
    assert data._loaded is None
    with pytest.raises(Refusal, match="classes"):
        data.labelled(asked("data.task.classes=[dog,cat]"))
    assert len(data.labelled(asked())) == 6
    kept = OwnData(folder, CLASSES, None, 16, 1, stored_size=20)
    assert kept.labelled(asked("data.task.stored_size=20")).x.shape == (6, 1, 20, 20)
    with pytest.raises(Refusal, match="image-shape"):
        kept.labelled(asked())


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 3), (64, 3)])
def test_the_same_files_are_the_same_images_at_any_shape(folder: Path, budget: Budget, size: int, channels: int) -> None:
    """At 984c90f one request at another size was enough to lock the true images out for good."""
    assert charge(budget, 1, load_site_folder(folder, CLASSES, size, channels)) == [{"image": 6}]
    assert charge(budget, 2, load_site_folder(folder, CLASSES, 16, 1)) == [{"image": 6}]


def test_names_folders_and_order_do_not_matter_a_copy_counts_once(folder: Path, budget: Budget) -> None:
    charge(budget, 1, load_site_folder(folder, CLASSES, 16, 1))
    (folder / "cat" / "0.png").rename(folder / "dog" / "relabelled.png")
    (folder / "dog" / "1.png").rename(folder / "dog" / "aaa.png")
    shutil.copy(folder / "cat" / "1.png", folder / "cat" / "twice.png")
    assert charge(budget, 2, load_site_folder(folder, CLASSES, 16, 1)) == [{"image": 6}]
    index = [3, 1, 4]
    images = load_site_folder(folder, CLASSES, 16, 1)
    assert images.take(index).contents() == [images.contents()[i] for i in index]
    assert charge(budget, 3, images.take(index)) == [{"image": 6}]


def test_a_subject_who_gains_a_scan_is_growth_under_either_unit(folder: Path, tmp_path: Path) -> None:
    subjects = ["p1", "p2", "p3", "p1", "p2", "p3"]
    for unit in ("subject", "image"):
        policy = POLICY.model_copy(update={"unit": unit, "dataset": unit})
        budget = granted(policy, asked(f"privacy.unit={unit}"), tmp_path / f"{unit}.sqlite")
        assert charge(budget, 1, load_site_csv(listed(folder, subjects), CLASSES, 16, 1)) == [{"image": 6, "subject": 3}]
        extra = folder / "dog" / "new.png"
        Image.fromarray(np.full((16, 16), 7, np.uint8)).save(extra)
        grown = load_site_csv(listed(folder, [*subjects, "p1"]), CLASSES, 16, 1)
        assert charge(budget, 2, grown) == [{"image": 6, "subject": 3}, {"image": 1}]
        extra.unlink()


def test_a_change_of_unit_neither_resets_nor_swaps(folder: Path, tmp_path: Path) -> None:
    """The owner first had a folder and charged by image, then a list with subjects, then a folder again."""
    path, plain = tmp_path / "ledger.sqlite", load_site_folder(folder, CLASSES, 16, 1)
    by_image = granted(POLICY, asked(), path)
    by_image.reserve("a", 1, True, plain)
    spent = Ledger(path).spent("pets").history
    by_subject = granted(POLICY.model_copy(update={"unit": "subject"}), asked("privacy.unit=subject"), path)
    with pytest.raises(Refusal, match="unit"):
        by_subject.reserve("b", 1, True, plain)  # no subjects are named: refused before anything is charged
    assert Ledger(path).spent("pets").history == spent
    subjects = load_site_csv(listed(folder, ["p1", "p2", "p3"] * 2), CLASSES, 16, 1)
    by_subject.reserve("b", 1, True, subjects)
    by_image.reserve("a", 2, False, plain)
    total = Ledger(path).spent("pets")
    assert sum(total.history.values()) == 3 * sum(spent.values())
    assert {name: run.plan["unit"] for name, run in total.runs.items()} == {"a": "image", "b": "subject"}
    assert [row.body["kinds"] for row in Ledger(path).rows() if row.kind == "records"] == [{"image": 6}, {"subject": 3}]


def test_all_files_written_anew_are_a_swap_unless_subjects_tell_or_the_owner_does(folder: Path, budget: Budget) -> None:
    assert isinstance(budget.books.ledger, Path)
    charge(budget, 1, load_site_folder(folder, CLASSES, 16, 1))
    for path in folder.rglob("*.png"):
        Image.open(path).save(path, compress_level=1)  # the same pixels in other bytes
    images = load_site_folder(folder, CLASSES, 16, 1)
    with pytest.raises(Refusal, match="ledger"):
        charge(budget, 2, images)
    Ledger(budget.books.ledger).accept("pets")
    assert charge(budget, 2, images) == [{"image": 6}, {"image": 6}]
    assert Ledger(budget.books.ledger).spent("pets").runs["run"].rounds == 2


def test_a_new_name_is_no_new_budget(folder: Path, budget: Budget, tmp_path: Path) -> None:
    charge(budget, 1, load_site_folder(folder, CLASSES, 16, 1))
    renamed = replace(budget, books=replace(budget.books, dataset="pets, once more"))
    for size in (8, 16):  # at whatever size
        with pytest.raises(Refusal, match="ledger"):
            renamed.reserve("run", 1, True, load_site_folder(folder, CLASSES, size, 3))
    off = policy_budget(
        POLICY.model_copy(update={"scope": "off", "dataset": "other"}), asked("privacy={scope: off}"), budget.books.ledger
    )
    assert isinstance(off, Unaccounted)
    with pytest.raises(Refusal, match="ledger"):  # it would taint images that 'pets' answers for
        off.mark("bare", load_site_folder(folder, CLASSES, 16, 1))
    assert not Ledger(tmp_path / "ledger.sqlite").spent("pets").unaccounted


def test_images_read_under_scope_off_stay_known_under_any_name(folder: Path, tmp_path: Path) -> None:
    path, images = tmp_path / "ledger.sqlite", load_site_folder(folder, CLASSES, 16, 1)
    off = policy_budget(POLICY.model_copy(update={"scope": "off"}), asked("privacy={scope: off}"), path)
    assert isinstance(off, Unaccounted)
    off.mark("bare", images)
    fresh = granted(POLICY.model_copy(update={"dataset": "fresh"}), asked(), path)
    with pytest.raises(Refusal, match="ledger"):
        fresh.reserve("run", 1, True, images)
    with pytest.raises(Refusal, match="budget"):
        granted(POLICY, asked(), path).reserve("run", 1, True, images)


def test_a_file_that_changes_while_the_site_runs_counts_from_its_next_start(folder: Path, budget: Budget) -> None:
    data = OwnData(folder, CLASSES, None, 16, 1)
    assert charge(budget, 1, data.labelled(asked())) == [{"image": 6}]
    before = data.images().x.clone()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(folder / "cat" / "0.png")
    assert charge(budget, 2, data.labelled(asked())) == [{"image": 6}]
    assert data.images().x.equal(before)  # what is read is what stands on record
    restarted = OwnData(folder, CLASSES, None, 16, 1)
    assert charge(budget, 3, restarted.labelled(asked())) == [{"image": 6}, {"image": 1}]


def test_images_without_files_are_known_by_their_pixels_wherever_they_stand() -> None:
    from mpssl_fed.data.datasets import load_dataset

    train = load_dataset("mnist-5k").train.take(range(20))
    one, other = identities(train, "image"), identities(train.take(range(19, -1, -1)), "subject")
    assert train.digests is None
    assert one.images == other.images
    assert len(one.images) == 20
    assert not one.subjects


def test_the_filter_goes_by_the_policys_delta_whatever_is_asked(tmp_path: Path) -> None:
    """A filter is one pair, fixed beforehand: a server that asks a smaller delta changes the plan, not the limit."""
    budget = granted(POLICY, asked("privacy.delta=1.0e-9"), tmp_path / "ledger.sqlite")
    assert budget.plan.delta == 1e-9
    assert (budget.limit.max_epsilon, budget.limit.delta) == (POLICY.max_epsilon, POLICY.delta)
