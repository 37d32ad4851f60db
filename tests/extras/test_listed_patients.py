"""Patients of DICOM files that a list names: hashed, whole on both sides, never shown; refused beside a column of subjects."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mpssl_fed
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.data.formats.dicom import patient
from mpssl_fed.deployment.own_data import OwnData
from mpssl_fed.errors import UserError
from mpssl_fed.trained import evaluate_list, load_trained
from tests.data.test_folder import picture
from tests.extras.test_dicom import NAME, NUMBER, cohort, scan, written

ASKED = "dicom-patient-id"
PEOPLE = [f"{NUMBER}-{n}" for n in range(6)]
Names = Callable[[int, str], tuple[str, ...]]


def listed(folder: Path, columns: str = "", more: Names = lambda number, label: ()) -> Path:
    """Write two images, of cat and dog, of each of six people, one of whom is spelt in two ways, and a list of them."""
    cohort(folder, (*PEOPLE, f" {PEOPLE[0].lower()} "))
    lines = [f"path,label{columns}"]
    for label in ("cat", "dog"):
        files = sorted((folder / label).iterdir(), key=lambda file: int(file.stem))
        lines += [",".join((f"{label}/{file.name}", label, *more(int(file.stem) // 2, label))) for file in files]
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


def test_patients_are_subjects_as_in_folders_and_stay_unknown(tmp_path: Path, capfd: Any, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    file = listed(tmp_path)
    assert load_dataset("image-csv", file, 16).train.subjects is None
    data = load_dataset("image-csv", file, 16, subjects=ASKED)
    train, test = set(data.train.subjects or ()), set(data.test.subjects or ())
    assert train | test == {patient(path) for path in tmp_path.rglob("*.dcm")}
    assert (len(train | test), train & test) == (6, set())
    site = OwnData(file, ("cat", "dog"), ASKED, size=16, channels=1)
    assert site.check() == ""
    assert site.subjects_found() == {"count": 6, "test_disjoint": None}
    run = mpssl_fed.simulate(
        "datasets/image-csv", f"data.root={file}", f"data.subjects={ASKED}", "data.labels_per_class=null", "data.label_fraction=1",
        "data.partition.name=iid", "federation.sites=2", "federation.rounds=1", "federation.local_steps=1", "method.name=base",
        "model.name=pixels", "warm_start.part=none", "privacy.scope=off", output=tmp_path / "run",
    )  # fmt: skip
    assert run.config.data.subjects == ASKED
    measured = evaluate_list(load_trained(run.folder), file, subjects=ASKED).metrics
    assert (measured.images, measured.subjects) == (14, 6)
    assert evaluate_list(load_trained(run.folder), file).metrics.subjects is None
    everything = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    for secret in (NUMBER, NUMBER.lower(), NAME, *train, *test):
        assert secret not in f"{capfd.readouterr()} {caplog.text} {site}"
        assert secret.encode() not in everything


def test_a_patient_on_two_sides_is_refused_without_a_word_on_who(tmp_path: Path) -> None:
    file = listed(tmp_path, ",split", lambda number, label: ("test" if (number, label) == (6, "dog") else "train",))
    with pytest.raises(
        UserError, match=r"list\.csv, line 15: the patient of this file is tested on here and trained on in .*line 2;"
    ):
        load_dataset("image-csv", file, 16, subjects=ASKED)
    apart = listed(tmp_path, ",split", lambda number, label: ("test" if number in (0, 6) else "train",))
    data = load_dataset("image-csv", apart, 16, subjects=ASKED)
    assert (len(data.train), len(data.test), len(set(data.test.subjects or ()))) == (10, 4, 1)
    at_two = listed(tmp_path, ",site", lambda number, label: ("Basel" if number < 6 else "Lyon",))
    asked = ("data.name=image-csv", f"data.root={at_two}", f"data.subjects={ASKED}", "data.partition.name=column")
    with pytest.raises(UserError, match=r"list\.csv: a patient is at the sites 'Basel' and 'Lyon'"):
        mpssl_fed.simulate("demo", *asked, "data.labels_per_class=2", "federation.sites=2", output=tmp_path / "run")


@pytest.mark.parametrize("asked", [ASKED, "parent"])
def test_it_is_refused_where_the_list_says_otherwise(tmp_path: Path, asked: str) -> None:
    file = listed(tmp_path, ",subject", lambda number, label: (f"p{number}",))
    said = r"list\.csv has a column subject, and" if asked == ASKED else "list.csv is a list: it names subjects in a column subject"
    with pytest.raises(UserError, match=said):
        load_dataset("image-csv", file, 16, subjects=asked)
    with pytest.raises(UserError, match=said):
        OwnData(file, ("cat", "dog"), asked, size=16, channels=1).check()


def test_a_file_that_names_nobody_is_refused_by_its_line(tmp_path: Path) -> None:
    file = listed(tmp_path)
    written(tmp_path, scan(PatientID="ANONYMOUS"), "nobody.dcm")
    picture(tmp_path / "x.png")
    for name, said in (("nobody.dcm", "names nobody"), ("x.png", "no DICOM file")):
        (tmp_path / "more.csv").write_text(f"{file.read_text()}\n{name},cat\n")
        with pytest.raises(UserError, match=rf"more\.csv, line 16: image file .*{name}: .*{said}"):
            load_dataset("image-csv", tmp_path / "more.csv", 16, subjects=ASKED)
