"""What lies in a folder is read, counted with its names, or refused: nothing is missing in silence, nothing counts twice."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mpssl_fed.data.datasets import Dataset, load_dataset
from mpssl_fed.data.folder import site_folder
from mpssl_fed.data.walk import BESIDE, COPY, DEAD, DEEP, FAR, HIDDEN, LEAK, LOOP, OTHER, SHARED, SPECIAL, Skipped, walk
from mpssl_fed.errors import UserError
from mpssl_fed.trained.predict import image_files
from tests.data.test_folder import CLASSES, picture, tree


def read(root: Path, subjects: str | None = None) -> Dataset:
    return load_dataset("image-folder", root=root, size=16, subjects=subjects)


def counts(skipped: Skipped) -> dict[str, int]:
    return {reason: len(paths) for reason, paths in skipped.found.items()}


def test_everything_left_out_is_counted_and_named(tmp_path: Path) -> None:
    tree(tmp_path, n=8)
    cat, dog, owl = (tmp_path / "train" / name for name in CLASSES)
    (cat / "a.gif").write_bytes(b"GIF89a")
    (cat / "b.JFIF").write_bytes(b"")
    (cat / "notes").write_text("")
    (dog / ".x.png").write_bytes(b"")
    (dog / "Thumbs.db").write_bytes(b"")
    (dog / "gone.png").symlink_to("/annex/gone.png")
    (dog / "itself.png").symlink_to("itself.png")
    os.mkfifo(owl / "pipe.png")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(owl / "socket.png"))
    (owl / "zero.png").symlink_to("/dev/zero")
    picture(owl / "a" / "b" / "deep.png")
    (owl / "up").symlink_to("..")
    picture(tmp_path / "train" / "loose.png")
    for tool in ("__MACOSX", "@eaDir", ".git", "lost+found"):
        picture(tmp_path / "train" / tool / "x.png")
    picture(tmp_path / "val" / "cat" / "0.png")
    data = read(tmp_path)
    assert len(data.train) + len(data.test) == 24
    assert data.classes == CLASSES
    wanted = {OTHER: 3, HIDDEN: 6, DEAD: 2, SPECIAL: 3, DEEP: 1, LOOP: 1, BESIDE: 1, "beside the folders train and test": 1}
    assert counts(data.skipped) == wanted
    text = "\n".join(data.skipped.lines(20))
    for name in (
        "a.gif",
        "b.JFIF",
        "gone.png",
        "itself.png",
        "pipe.png",
        "socket.png",
        "zero.png",
        "deep.png",
        "loose.png",
        "@eaDir",
    ):
        assert name in text
    assert "/" not in data.skipped.counts()
    assert all(f"{n} {reason}" in data.skipped.counts() for reason, n in wanted.items())


@pytest.mark.parametrize(
    "name", ["_cat", "__cat", "__background__", "@home", "#1", "$x$", "[left]", "cat.png", "Cat", "кот", "a\nb", "-x", " "]
)
def test_a_class_may_be_called_anything(tmp_path: Path, name: str) -> None:
    tree(tmp_path, n=5)
    for i in range(5):
        picture(tmp_path / "train" / name / f"{i}.png", seed=900 + i)
    data = read(tmp_path)
    assert data.classes == tuple(sorted((*CLASSES, name)))
    assert data.train.y.bincount().tolist() == [4] * 4


def test_a_class_whose_name_is_not_utf_8_is_escaped(tmp_path: Path) -> None:
    tree(tmp_path, n=5)
    (tmp_path / "train" / "dog").rename(os.fsdecode(os.fsencode(tmp_path / "train") + b"/caf\xe9"))
    data = read(tmp_path)
    assert data.classes == (r"caf\xe9", "cat", "owl")
    assert len(site_folder(tmp_path / "train", data.classes).rows) == 15


@pytest.mark.parametrize("spoil", ["suffix", "links", "deep", "pipes"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_that_lost_all_its_images_is_an_error(tmp_path: Path, part: str, spoil: str) -> None:
    tree(tmp_path, "train", 4)
    tree(tmp_path, "test", 2)
    for file in list((tmp_path / part / "dog").iterdir()):
        if spoil == "suffix":
            file.rename(file.with_suffix(".jfif"))
            continue
        whole = file.read_bytes()
        file.unlink()
        if spoil == "links":
            file.symlink_to("/annex/gone.png")
        elif spoil == "pipes":
            os.mkfifo(file)
        else:
            deep = file.parent / "a" / "b" / file.name
            deep.parent.mkdir(parents=True, exist_ok=True)
            deep.write_bytes(whole)
    with pytest.raises(UserError, match=rf"class folder .*{part}/dog has no image .*Left out there: "):
        read(tmp_path)
    with pytest.raises(UserError, match=r"class folder .*dog has no image"):
        site_folder(tmp_path / part, CLASSES)


def test_a_class_folder_that_is_a_dead_link(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "train" / "emu").symlink_to("/annex/gone/emu")
    with pytest.raises(UserError, match=r"emu is a link to /annex/gone/emu, which is not there; was it a class\?"):
        read(tmp_path)


def test_a_test_part_that_is_no_folder(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "test").symlink_to("/annex/gone")
    with pytest.raises(UserError, match=r"test is a link to /annex/gone, which is not there; want test/CLASS"):
        read(tmp_path)
    (tmp_path / "test").unlink()
    (tmp_path / "test").write_text("")
    with pytest.raises(UserError, match=r"test is no folder; want test/CLASS"):
        read(tmp_path)


def test_a_class_that_test_does_not_have_is_said(tmp_path: Path) -> None:
    tree(tmp_path, "train", 4)
    tree(tmp_path, "test", 2)
    for file in (tmp_path / "test" / "owl").iterdir():
        file.unlink()
    assert read(tmp_path).note.endswith("test has no image of owl")


@pytest.mark.parametrize("subjects", [None, "parent"])
def test_a_link_never_leads_through_half_a_disk(tmp_path: Path, subjects: str | None) -> None:
    root, archive = tmp_path / "photos", tmp_path / "archive"
    for label in ("cat", "dog"):
        for i in range(6):
            picture(root / "train" / label / ("" if subjects is None else f"p{i}") / f"{i}.png", seed=i + 10 * (label == "cat"))
    picture(archive / "a" / "b" / "deep.png", 99)
    inner = root / "train" / "cat" / ("" if subjects is None else "p0")
    (root / "train" / "cat" / "system").symlink_to("/")
    (root / "train" / "cat" / "home").symlink_to(tmp_path)
    (inner / "kept").mkdir()
    (inner / "kept" / "all").symlink_to(archive)
    (inner / "archive").symlink_to(archive)
    data = read(root, subjects)
    assert counts(data.skipped) == {LOOP: 2, FAR: 2}
    assert data.skipped.found[FAR] == [inner / "archive", inner / "kept" / "all"]
    skipped = Skipped()
    found = image_files([root / "train"], skipped)
    assert len(found) == 12 + 1
    assert counts(skipped) == {LOOP: 3}


def test_a_class_all_of_whose_images_lie_behind_a_link_too_deep(tmp_path: Path) -> None:
    tree(tmp_path / "photos", n=3)
    picture(tmp_path / "store" / "a" / "b" / "0.png")
    cat = tmp_path / "photos" / "train" / "cat"
    for file in cat.iterdir():
        file.unlink()
    (cat / "all").symlink_to(tmp_path / "store" / "a" / "..")
    with pytest.raises(UserError, match=r"train/cat has no image .*1 links to folders too deep"):
        read(tmp_path / "photos")


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path)
    listed = Path.iterdir

    def refuse(path: Path) -> object:
        if path.name == "dog":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)  # the suite may run as root, whom no mode stops
    with pytest.raises(UserError, match=r"folder .*dog cannot be listed \(Permission denied\); let this user read it"):
        read(tmp_path)


def test_links_and_copies_count_once(tmp_path: Path) -> None:
    tree(tmp_path, n=6)
    cat = tmp_path / "train" / "cat"
    (cat / "hard.png").hardlink_to(cat / "0.png")
    (cat / "soft.png").symlink_to("0.png")
    (cat / "copy.png").write_bytes((cat / "1.png").read_bytes())
    (cat / "twice").mkdir()
    data = read(tmp_path)
    assert len(data.train) + len(data.test) == 18
    assert counts(data.skipped) == {COPY: 3}
    assert len(site_folder(tmp_path / "train", CLASSES).rows) == 18


@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to", "copy"])
def test_one_image_in_two_classes_is_refused(tmp_path: Path, how: str) -> None:
    tree(tmp_path, n=4)
    one, other = tmp_path / "train" / "cat" / "0.png", tmp_path / "train" / "dog" / "x.png"
    other.write_bytes(one.read_bytes()) if how == "copy" else getattr(other, how)(one)
    for load in (lambda: read(tmp_path), lambda: site_folder(tmp_path / "train", CLASSES)):
        with pytest.raises(UserError, match=r"dog/x.png and .*cat/0.png are one image in two classes, 'cat' and 'dog'"):
            load()


@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to", "copy"])
def test_one_image_of_two_subjects(tmp_path: Path, how: str) -> None:
    one, other = tmp_path / "cat" / "p1" / "0.png", tmp_path / "cat" / "p2" / "x.png"
    picture(one)
    picture(other.with_name("own.png"), 3)
    other.write_bytes(one.read_bytes()) if how == "copy" else getattr(other, how)(one)
    if how == "copy":  # two black frames may be equal and yet of two people
        files = site_folder(tmp_path, CLASSES, "parent")
        assert [row[2] for row in files.rows] == ["p1", "p2", "p2"]
        assert counts(files.skipped) == {SHARED: 1}
        assert files.skipped.lines()[0].startswith("note: 1 copies of an image of another subject")
    else:
        with pytest.raises(UserError, match=r"p2/x.png and .*p1/0.png are one file under two subjects, 'p1' and 'p2'"):
            site_folder(tmp_path, CLASSES, "parent")


def test_an_image_in_train_and_test(tmp_path: Path) -> None:
    tree(tmp_path, "train", 4)
    test = tmp_path / "test" / "cat" / "x.png"
    picture(test).write_bytes((tmp_path / "train" / "cat" / "0.png").read_bytes())
    assert counts(read(tmp_path).skipped) == {LEAK: 1}
    test.unlink()
    test.symlink_to(tmp_path / "train" / "cat" / "0.png")
    with pytest.raises(UserError, match=r"test/cat/x.png is the training image .*cat/0.png \(a link\)"):
        read(tmp_path)


def people(root: Path, part: str, *names: str) -> None:
    for i, (label, name) in enumerate((label, name) for label in ("cat", "dog") for name in names):
        picture(root / part / label / name / "0.png", seed=1000 * len(part) + i)


@pytest.mark.parametrize(("one", "other"), [("p1", "p1"), ("p1", "p1 "), ("p2", " p2")])
def test_a_subject_in_train_and_test_is_refused(tmp_path: Path, one: str, other: str) -> None:
    people(tmp_path, "train", "p0", one)
    people(tmp_path, "test", "p9", other)
    with pytest.raises(UserError, match=rf"1 subject\(s\) are both in train and in test: {one};"):
        read(tmp_path, "parent")


@pytest.mark.parametrize(("one", "other"), [("1", "1.0"), ("p1", "P1"), ("7", "007"), ("é", "É")])
def test_subjects_that_look_alike_are_refused(tmp_path: Path, one: str, other: str) -> None:
    people(tmp_path, "train", "p0", one)
    people(tmp_path, "test", "p9", other)
    with pytest.raises(UserError, match="looks like"):
        read(tmp_path, "parent")
    people(tmp_path, "train", other)
    with pytest.raises(UserError, match="looks like"):
        site_folder(tmp_path / "train", CLASSES, "parent")


@pytest.mark.parametrize("name", [" ", "nan", "None", "-"])
def test_a_folder_that_names_nobody(tmp_path: Path, name: str) -> None:
    people(tmp_path, "train", "p0", name)
    with pytest.raises(UserError, match="names no subject"):
        site_folder(tmp_path / "train", CLASSES, "parent")


def test_subjects_too_deep_are_counted(tmp_path: Path) -> None:
    people(tmp_path, "train", "p0", "p1")
    picture(tmp_path / "train" / "cat" / "p1" / "visit2" / "1.png", 77)
    (tmp_path / "train" / "cat" / "p1" / "up").symlink_to("..")
    files = site_folder(tmp_path / "train", CLASSES, "parent")
    assert len(files.rows) == 4
    assert counts(files.skipped) == {DEEP: 1, LOOP: 1}


def test_predict_walks_as_training_does(tmp_path: Path) -> None:
    inside, outside = tmp_path / "f", tmp_path / "elsewhere"
    for folder in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "_mine", "."):
        picture(inside / folder / "i.png")
    picture(outside / "o.PNG")
    (inside / "linked").symlink_to(outside)
    (inside / "up").symlink_to(".")
    (inside / "linked-too").symlink_to(outside)
    (inside / "gone.png").symlink_to("/annex/gone.png")
    (inside / "x.gif").write_bytes(b"")
    os.mkfifo(inside / "pipe.png")
    skipped = Skipped()
    found = image_files([inside], skipped)
    assert found == sorted([inside / "_mine" / "i.png", inside / "i.png", inside / "linked" / "o.PNG"])
    assert counts(skipped) == {HIDDEN: 3, LOOP: 2, DEAD: 1, OTHER: 1, SPECIAL: 1}
    assert walk(inside, Skipped()) == found
    for name in ("pipe.png", "gone.png"):
        with pytest.raises(UserError, match=name):
            image_files([inside / name])
