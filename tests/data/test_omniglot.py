"""Omniglot from files of its format written here, and from the published archives where they are."""

from __future__ import annotations

import hashlib
import io
import os
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mpssl_fed
from mpssl_fed.config import load
from mpssl_fed.data.datasets import load_dataset, validation_split
from mpssl_fed.data.fetch import ARCHIVES, fetch_dataset
from mpssl_fed.data.omniglot import FOLDERS, LETTERS, drawn, names_of
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.files import sha256
from mpssl_fed.method.selection import relevance
from mpssl_fed.study.dry_run.known_data import known_data
from mpssl_fed.trained import load_trained, predict

SHARED = Path(os.environ.get("MPSSL_OMNIGLOT") or Path(__file__).parents[2].parent / "shared" / "data" / "omniglot")
PUBLISHED = {
    "Balinese": 24, "Early_Aramaic": 22, "Greek": 24, "Japanese_(katakana)": 47, "Korean": 40, "Latin": 26, "Sanskrit": 42,
    "Tagalog": 17,
}  # fmt: skip


def drawing(character: int, drawer: int, side: int = 105) -> bytes:
    """A 1-bit PNG: a black stroke on white whose column tells the character and whose row the drawer."""
    pixels = np.full((side, side), True)
    pixels[4 + 5 * (drawer - 1) : 8 + 5 * (drawer - 1), 10 * character : 10 * character + 5] = False
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def files(alphabet: str, characters: int = 3) -> dict[str, bytes]:
    """The drawings of an alphabet, named as in the archives; the number in front of the drawer's is of no meaning to us."""
    return {
        f"{alphabet}/character{character:02d}/{700 + character:04d}_{drawer:02d}.png": drawing(character, drawer)
        for character in range(1, characters + 1)
        for drawer in range(1, 21)
    }


def pack(root: Path, name: str, content: dict[str, bytes]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(root / f"{name}.zip", "w") as archive:
        archive.writestr(f"__MACOSX/{name}/Old_Script/character01/._0001_01.png", b"resource fork")
        for path, data in content.items():
            archive.writestr(f"{name}/{path}", data)
    return root


def unpack(root: Path, name: str, content: dict[str, bytes]) -> Path:
    for path, data in content.items():
        file = root / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return root


@pytest.mark.parametrize("below", [".", "omniglot-py"])
@pytest.mark.parametrize("put", [pack, unpack])
def test_archives_and_folders_read_alike(tmp_path: Path, put: object, below: str) -> None:
    """Each image's stroke tells its character and drawer, so neither classes, nor subjects, nor sides were mixed up."""
    content = files("Old_Script_(of_Nowhere)")
    put(tmp_path / below, "images_evaluation", files("Other") | content)  # type: ignore[operator]
    data = load_dataset("omniglot/old-script", root=tmp_path, size=105)
    assert data.name == "omniglot/Old_Script_(of_Nowhere)"
    assert data.classes == ("Old Script 01", "Old Script 02", "Old Script 03")
    assert (data.size, data.channels, data.flip, len(data.train), len(data.test)) == (105, 1, False, 36, 24)
    digests = {hashlib.sha256(value).hexdigest(): key for key, value in content.items()}
    for images, drawers in ((data.train, range(1, 13)), (data.test, range(13, 21))):
        assert images.subjects is not None
        assert images.digests is not None
        assert set(images.subjects) == {f"Old_Script_(of_Nowhere) {drawer:02d}" for drawer in drawers}
        for x, y, subject, digest in zip(images.x[:, 0], images.y.tolist(), images.subjects, images.digests, strict=True):
            top, left = (int((x > 0).any(axis).nonzero()[0]) for axis in (1, 0))
            assert (left + 1, top + 1) == (10 * (y + 1), 4 + 5 * (int(subject[-2:]) - 1))  # wider by one on each side
            assert digests[digest].endswith(f"character{y + 1:02d}/{701 + y:04d}_{subject[-2:]}.png")
            assert sorted(x.unique().tolist()) == [0, 255]


def test_ink_is_bright_whatever_else_is_on_the_image() -> None:
    """No image's contrast is stretched by what it holds: half the ink is half as bright, and a drawing alone is as in company."""
    ink = torch.zeros(3, 1, 105, 105, dtype=torch.uint8)
    ink[0, 0, 50:55, 10:90] = 254
    ink[1, 0, 50:55, 10:90] = 127
    ink[2, 0, 20, 20] = 255
    small = drawn(ink, 32).int()
    assert small[0].max() > 220  # plain averaging would leave 0.76 of a stroke's 254 at most
    assert int((small[0] - 2 * small[1]).abs().max()) <= 2
    assert torch.equal(drawn(ink[1:2], 32), drawn(ink, 32)[1:2])
    assert small.shape == (3, 1, 32, 32)
    assert drawn(ink, 128).shape[-1] == 128


def test_known_letters_are_unicode_s() -> None:
    """By these names a generator's class is matched; where an alphabet is not whole, its characters keep their numbers."""
    scripts = {"Latin": "LATIN SMALL LETTER ", "Greek": "GREEK SMALL LETTER ", "Japanese_(katakana)": "KATAKANA LETTER "}
    assert LETTERS.keys() == scripts.keys()
    for alphabet, words in scripts.items():
        names = LETTERS[alphabet]
        assert len(names) == len(set(names)) == PUBLISHED[alphabet]
        script, letters = names[0].split()[0], [name.split()[1] for name in names]
        assert all(name == f"{script} {letter}" for name, letter in zip(names, letters, strict=True))
        assert all(unicodedata.name(letter).startswith(words) for letter in letters)
        assert script.upper() == words.split()[0]
        assert letters == sorted(letters)
        assert names_of(alphabet, list(range(1, len(names) + 1))) == names
    shown = relevance(("greek Α", "greek α", "texture dots-1", "greek ω"), LETTERS["Greek"], {})
    assert torch.nonzero(shown).tolist() == [[0, 1], [23, 3]]
    assert names_of("Latin", [1, 3]) == ("Latin 01", "Latin 03")
    assert names_of("Japanese_(hiragana)", [2]) == ("hiragana 02",)


def test_labels_sites_subjects_and_validation_are_as_for_other_sets(tmp_path: Path) -> None:
    pack(tmp_path, "images_background", files("Old_Script"))
    words = [f"data={{name: omniglot/Old_Script, root: '{tmp_path}', labels_per_class: 4}}", "federation.sites=3"]
    config = load("demo", words)
    assert [len(share) for share in parts.shares(config)] == [12, 12, 12]
    known = known_data(config)
    assert known is not None
    data = parts.dataset(config)
    assert (known.classes, known.train, known.test, known.size) == (3, len(data.train), len(data.test), data.size)
    assert known.channels == data.channels
    tuned = validation_split(data, 0.2)
    assert len(tuned.test) == 6
    assert tuned.train.subjects is not None
    assert tuned.test.subjects is not None
    assert not set(tuned.train.subjects) & set(tuned.test.subjects)
    with pytest.raises(UserError, match=r"set it to 4|lower federation\.sites"):
        parts.shares(load("demo", [words[0].replace("4}", "5}"), "federation.sites=3"]))


def test_a_run_reads_new_drawings_as_it_read_its_own(tmp_path: Path) -> None:
    """``predict`` gets the set's own files: inverted, grown and resized as in training, and the model's file says so."""
    unpack(tmp_path, "images_background", files("Old_Script"))
    words = [
        f"data={{name: omniglot/Old_Script, root: '{tmp_path}', labels_per_class: 4}}",
        "method.name=base",
        "runtime.device=cpu",
    ]
    steps = ["federation={sites: 2, rounds: 1, local_steps: 2}", "model.name=pixels"]
    run = mpssl_fed.simulate("demo", *words, *steps, output=tmp_path / "run")
    trained, test = load_trained(run.folder, "cpu"), parts.dataset(run.config).test
    drawings = sorted((tmp_path / "images_background").rglob("*.png"))
    own = [file for file in drawings if int(file.stem[-2:]) > 12]
    read = trained.read(own)
    assert int((read.int() - test.x.int()).abs().max()) <= 1  # Pillow and torch round differently
    assert float(read.float().mean()) < 40
    right = sum(one.label == trained.classes[int(y)] for one, y in zip(predict(trained, own), test.y, strict=True))
    assert right / len(own) == pytest.approx(run.accuracy, abs=1e-6)


def test_what_is_not_there_is_said_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of images_background\.zip.*fetch omniglot' .*fetch omniglot-small'.*data\.root"):
        load_dataset("omniglot/Sanskrit", root=tmp_path)
    pack(tmp_path, "images_background_small1", files("Old_Script") | files("Greek"))
    with pytest.raises(UserError, match=r"name an alphabet, data\.name=omniglot/ALPHABET\. .*: Greek, Old_Script"):
        load_dataset("omniglot", root=tmp_path)
    with pytest.raises(UserError, match=r"no alphabet 'Old_Skript'.*Did you mean 'Old_Script'"):
        load_dataset("omniglot/Old_Skript", root=tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    one = "Old_Script/character02/0702_05.png"
    whole = files("Old_Script")
    for number, (content, words) in enumerate(
        [
            ({key: value for key, value in whole.items() if key != one}, "19 drawings of Old_Script/character02, not one by each"),
            (whole | {one.replace("0702", "0709"): whole[one]}, "21 drawings of Old_Script/character02"),
            (whole | {one: whole[one][:60]}, "0702_05.png cannot be decoded"),
            (whole | {one: b"text"}, "0702_05.png cannot be decoded .no PNG"),
            (whole | {one: drawing(1, 1, 200)}, "0702_05.png has 200 x 200 pixels"),
        ]
    ):
        for put in (pack, unpack):
            root = put(tmp_path / f"{put.__name__}{number}", FOLDERS[0], content)
            with pytest.raises(UserError, match=words):
                load_dataset("omniglot/Old_Script", root=root)
    root = pack(tmp_path / "large", FOLDERS[0], whole | {one: whole[one] + bytes(1 << 17)})
    with pytest.raises(UserError, match=r"0702_05\.png has more than 65536 bytes"):
        load_dataset("omniglot/Old_Script", root=root)
    archive = pack(tmp_path / "cut", FOLDERS[0], whole) / f"{FOLDERS[0]}.zip"
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cannot read the archive .*images_background\.zip .*fetch it again"):
        load_dataset("omniglot/Old_Script", root=archive.parent)


def test_archives_come_with_their_sums(tmp_path: Path) -> None:
    """A file that is there already is taken only if it is the published one."""
    for archive in (*ARCHIVES["omniglot"](), *ARCHIVES["omniglot-small"]()):
        assert archive.url.startswith("https://raw.githubusercontent.com/brendenlake/omniglot/")
        assert (archive.md5 is None) != (archive.sha256 is None)
    pack(tmp_path / "omniglot-py", "images_background_small1", files("Old_Script"))
    with pytest.raises(UserError, match=r"download of http://127\.0\.0\.1:9/.* failed"):
        fetch_dataset("omniglot-small", tmp_path, url="http://127.0.0.1:9/images_background_small1.zip")


@pytest.mark.skipif(not SHARED.is_dir(), reason="Omniglot's small archives, in ../shared/data/omniglot or $MPSSL_OMNIGLOT")
def test_the_published_archives() -> None:
    sums = {archive.filename: archive.sha256 for archive in ARCHIVES["omniglot-small"]()}
    assert {file.name: sha256(file) for file in SHARED.glob("*.zip")} == sums
    for alphabet, characters in PUBLISHED.items():
        data = load_dataset(f"omniglot/{alphabet}", root=SHARED)
        assert (len(data.classes), len(data.train), len(data.test)) == (characters, 12 * characters, 8 * characters)
        assert 0.08 < float(data.train.x.float().mean()) / 255 < 0.16
        brightest = torch.quantile(data.train.x.float().flatten(1), 0.98, dim=1)
        assert float(brightest.mean()) > 240
    assert load_dataset("omniglot/katakana", root=SHARED).classes == LETTERS["Japanese_(katakana)"]
