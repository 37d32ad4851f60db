"""Lists of many sites, ``path,label[,subject][,site][,split]``: read as meant or refused by line, by simulation and site alike."""

from __future__ import annotations

import itertools
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mpssl_fed import config as configs
from mpssl_fed.config import Config
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.data.site_csv import natural_order, read_list, read_paths, site_csv
from mpssl_fed.data.walk import Skipped
from mpssl_fed.deployment.own_data import OwnData
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.engines.simulation import preflight
from mpssl_fed.federation.whole import subjects_of
from mpssl_fed.trained.lists import evaluated
from tests.data.test_folder import picture
from tests.data.test_site_csv import written

COLUMNS = ("path", "label", "subject", "site", "split")
ROWS = (
    ("a.png", "cat", "p1", "Basel", "train"),
    ("sub/b c.png", "dog", "p2", "Zürich 2", "train"),
    ("c.png", "cat", "p3", "Basel", "test"),
)
SITE = ("a.png,cat,A", "b.png,dog,B")


@dataclass(frozen=True)
class Odd:
    """A list, and the lines (path, label, subject, site, split) that it means or a part of the refusal."""

    name: str
    content: bytes
    rows: tuple[tuple[str, ...], ...] = ()
    refused: str = ""


def forms() -> list[Odd]:
    """One list in the forms that programs write, with each choice of the optional columns and in several orders."""
    found = []
    for chosen in itertools.product((False, True), repeat=3):
        columns = [0, 1, *(i for i, one in enumerate(chosen, 2) if one)]
        for number, (delimiter, end, bom) in enumerate(itertools.product(",;\t|", ("\n", "\r\n"), (b"", b"\xef\xbb\xbf"))):
            order = columns[number % len(columns) :] + columns[: number % len(columns)]
            table = [tuple(COLUMNS[i] for i in order), *(tuple(row[i] for i in order) for row in ROWS)]
            text = written(tuple(table), delimiter, end, quote=number % 3 == 0)
            rows = tuple(tuple(value if i in columns else "" for i, value in enumerate(row)) for row in ROWS)
            found.append(Odd(f"{'+'.join(table[0])} {delimiter!r}{end!r}{bom!r}", bom + text.encode(), rows))
    return found


def _site(*lines: str) -> bytes:
    return "\n".join(("path,label,site", *SITE, *lines, "")).encode()


def _split(*lines: str) -> bytes:
    return "\n".join(("path,label,split", "a.png,cat,train", "b.png,dog,train", *lines, "")).encode()


def _both(*lines: str) -> bytes:
    return "\n".join(("path,label,subject,split", "a.png,cat,p1,train", "b.png,dog,p2,train", *lines, "")).encode()


PLAIN = b"path,label\na.png,cat\nb.png,1\n"
MISSING = ("", " ", "nan", "NA", "n/a", "#N/A", "null", "<NA>", "?")
ODD = [
    Odd("split in capitals", _split("c.png,cat, TEST "), (*(("", "", "", "", "train"),) * 2, ("", "", "", "", "test"))),
    Odd("blanks about a site", _site("c.png,cat, A "), (("", "", "", "A"), ("", "", "", "B"), ("", "", "", "A"))),
    Odd("a test image of no site", _site().replace(b"site", b"site,split").replace(b",B", b",B,train").replace(b",A", b",A,train")
        + b"c.png,cat,,test\n", (("", "", "", "A"), ("", "", "", "B"), ("", "", "", "", "test"))),
    Odd("a class called none", b"path,label\na.png,none\nb.png,dog\n", (("", "none"), ("", "dog"))),
    Odd("accents apart", PLAIN + "c.png,pâte\nd.png,pa\u0302te\n".encode(), (("", "cat"), ("", "1"), ("", "pâte"), ("", "pâte"))),
    *(Odd(f"label {w!r}", PLAIN + f'c.png,"{w}"\n'.encode(), refused="line 4: .*(label is empty|no label)") for w in MISSING),
    *(Odd(f"site {w!r}", _site(f'c.png,cat,"{w}"'), refused="line 4: .*(site is empty|names no site)") for w in (*MISSING, "-")),
    *(Odd(f"split {w!r}", _split(f'c.png,cat,"{w}"'), refused="line 4: .*want train or test") for w in (*MISSING, "val", "0")),
    *(Odd(f"labels {w!r}", PLAIN + f"c.png,{w}\n".encode(), refused="line 4: the label .* looks like .*line")
      for w in ("Cat", "c at", "1.0", "01", "cat\u200b")),
    *(Odd(f"sites {w!r}", _site(f"c.png,cat,{w}"), refused="line 4: the site .* looks like 'A' of .*") for w in ("a", "\uff21")),
    Odd("too few values", b"path,label,subject,site,split\na.png,cat,p1,A\n", refused="line 2: the split is empty"),
    Odd("one class", b"path,label\na.png,cat\nb.png,cat\n", refused=r"1 class\(es\) in the training images"),
    Odd("a class in test alone", _split("c.png,cow,test"), refused="line 4: 'cow' is not a class of this task"),
    Odd("a subject in train and test", _both("c.png,cat,p3,test", "d.png,cat,p1,test"), refused="line 5: .*'p1' .*line 2"),
    Odd("the same, spelt otherwise", _both("c.png,cat,P1,test"), refused="line 4: the subject 'P1' looks like 'p1' of .*line 2"),
    Odd("an image in train and test", _split("./a.png,cat,test"), refused="line 4: ./a.png is already named on line 2"),
    Odd("a row twice", _site("b.png,dog,B"), refused="line 4: b.png is already named on line 3"),
    Odd("an unknown column", b"path,label,center\na.png,cat,A\n", refused=r"line 1 .*path,label\[,subject\]\[,site\]"),
    Odd("the column twice", b"path,label,site,Site\na.png,cat,A,B\n", refused="line 1 names the column 'site' 2 times"),
    Odd("a file that is not there", _site("gone.png,cat,A"), refused="line 4: image file 'gone.png' does not exist"),
    Odd("a Windows path", _site("sub\\c.png,cat,A"), refused="line 4: .*Write folders with '/'"),
    Odd("a copy in two classes", _split("copy-of-a.png,dog,train"), refused="line 4 and .*line 2 are one image in two classes"),
]  # fmt: skip
LISTS = [*forms(), *ODD]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("centres")
    for i, name in enumerate(("a.png", "b.png", "c.png", "d.png", "sub/b c.png")):
        picture(folder / name, seed=i)
    (folder / "copy-of-a.png").write_bytes((folder / "a.png").read_bytes())
    return folder


@pytest.mark.parametrize("odd", LISTS, ids=lambda odd: odd.name)
def test_read_as_meant_or_refused_by_line(odd: Odd, place: Path) -> None:
    file = place / "list.csv"
    file.write_bytes(odd.content)
    if odd.refused:
        with pytest.raises(UserError, match=re.compile(odd.refused, re.S)):
            read_list(file)
        with suppress(UserError):  # that a training image names no site, or looks like another class, is nothing to it
            evaluated(file, ("1", "cat", "dog"), None, Skipped())
        with suppress(UserError):
            read_paths(file)
        return
    found = read_list(file)
    for side, rows in (("train", found.train), ("test", found.test or [])):
        meant = [row for row in odd.rows if (row[4] if len(row) > 4 and row[4] else "train") == side]
        assert len(rows) == len(meant)
        for (path, label, subject), want in zip(rows, meant, strict=True):
            said = (str(path.relative_to(place)), found.classes[label], subject, (found.site or {}).get(path, ""))
            assert all(
                one == other for one, other in zip(said, want[:4], strict=False) if other and (side == "train" or other != want[3])
            )
            assert side == "test" or (found.site is not None) == (len(want) > 3 and bool(want[3]))


def many(folder: Path, text: str = "") -> Path:
    """Write a list of three sites: eight people each with three images of three classes, two people of each site to test on."""
    lines = ["path,label,subject,site,split"]
    for number, (site, person) in enumerate(itertools.product(("H 10", "H 2", "H 1"), range(8))):
        for k, label in enumerate(("ape", "bee", "cow")):
            picture(folder / f"{site}/{person}-{k}.png", seed=3 * number + k)
            lines.append(f"{site}/{person}-{k}.png,{label},{site}-{person},{site},{'test' if person < 2 else 'train'}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n" + text)
    return folder / "list.csv"


def config(file: Path, *words: str) -> Config:
    fields = {
        "data": {"name": "image-csv", "root": str(file), "size": 16, "labels_per_class": None, "partition": {"name": "column"}},
        "model": {"name": "hog"},
        "method": {"name": "base"},
        "federation": {"sites": 3, "rounds": 1, "local_steps": 1},
    }
    return configs.from_mapping(configs.override(fields, words))


def test_each_site_gets_its_own_images_and_the_split_is_kept(tmp_path: Path) -> None:
    natural = config(many(tmp_path))
    preflight(natural)
    names = parts.site_names(natural)
    assert names == ["H 1", "H 2", "H 10"] == parts.label_counts(natural)["names"]
    for site, name in enumerate(names):
        images = parts.labelled(natural, site)
        assert set(images.sites or ()) == {name}
        assert set(images.subjects or ()) == {f"{name}-{person}" for person in range(2, 8)}
        assert images.y.bincount().tolist() == [6, 6, 6]
    assert set(parts.dataset(natural).test.subjects or ()) == {f"{name}-{person}" for name in names for person in (0, 1)}
    assert subjects_of(natural) == {"count": 18, "sites_disjoint": True, "test": 6, "test_disjoint": True}
    few = config(tmp_path / "list.csv", "data.labels_per_class=2", "method.name=ssl-real")
    for site, name in enumerate(names):
        held = [parts.labelled(few, site), parts.unlabeled(few, site)]
        assert {one for images in held for one in images.sites or ()} == {name}  # type: ignore[union-attr]
        assert sum(map(len, held)) == 18  # type: ignore[arg-type]
    dealt = config(tmp_path / "list.csv", "data.partition.name=iid", "federation.sites=6")
    preflight(dealt)


def test_without_a_split_whole_subjects_are_held_out(tmp_path: Path) -> None:
    many(tmp_path)
    text = (tmp_path / "list.csv").read_text()
    (tmp_path / "list.csv").write_text("\n".join(line.rpartition(",")[0] for line in text.splitlines()))
    data = load_dataset("image-csv", tmp_path / "list.csv")
    assert "no column split: 15 of its 72 images are held out" in data.note
    assert not set(data.train.subjects or ()) & set(data.test.subjects or ())


def test_sites_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = many(tmp_path)
    with pytest.raises(UserError, match=r"federation.sites=4, but .*names 3 sites \(H 1, H 2, H 10\); set federation.sites=3"):
        preflight(config(file, "federation.sites=4"))
    with pytest.raises(UserError, match="these data name no site"):
        preflight(configs.from_mapping({"data": {"partition": {"name": "column"}}, "method": {"name": "base"}}))
    picture(tmp_path / "more.png", seed=99)
    twice = many(tmp_path, "more.png,ape,H 2-5,H 1,train\n")
    parts._dataset.cache_clear()
    parts._cached_split.cache_clear()
    with pytest.raises(UserError, match="the subject 'H 2-5' is at the sites 'H 2' and 'H 1'"):
        preflight(config(twice))
    with pytest.raises(UserError, match=r"needs data\.root, a CSV file"):
        load_dataset("image-csv", tmp_path)


def test_a_deployed_site_reads_the_same_list_of_its_own_images(tmp_path: Path) -> None:
    file = many(tmp_path)
    with pytest.raises(UserError, match=r"a list of 3 sites \(H 1, H 2, H 10\); a deployed site reads its own images alone"):
        site_csv(file, ("ape", "bee", "cow"))
    text = file.read_text().splitlines()
    file.write_text("\n".join(line for line in text if line.startswith(("path", "H 2/"))))
    data = OwnData(file, ("ape", "bee", "cow"), size=16, channels=1)
    assert data.check() == "6 of the test split, so not trained on"
    assert len(data.files()) == 1 + 24
    assert data.subjects_found() == {"count": 6, "test_disjoint": True}
    natural = config(many(tmp_path), "data.size=16")
    parts._dataset.cache_clear()
    assert torch.equal(data.images().x, parts.labelled(natural, 1).x)


def test_numbers_in_names_are_sorted_as_numbers() -> None:
    assert natural_order(["b", "a10", "a2", "2", "10", "a", "a2", ""]) == ["", "2", "10", "a", "a2", "a10", "b"]
