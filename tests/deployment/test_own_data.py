"""A site's own images: what is left out is counted in the log without a name, and its classes are taken literally."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from mpssl_fed.deployment.own_data import ABOUT, OwnData, class_names, wipe
from mpssl_fed.deployment.start_site import SiteSettings, check_site
from mpssl_fed.errors import UserError
from tests.data.test_folder import CLASSES, picture, tree

POLICY = "dataset: chest\npublic_size: 100\nmax_epsilon: 1\ndelta: 1e-5\n"


def site_of(tmp_path: Path) -> Path:
    tree(tmp_path, n=3)
    root = tmp_path / "train"
    (root / "cat" / "secret-name.gif").write_bytes(b"")
    (root / "cat" / "secret-link.png").symlink_to("/annex/secret-target")
    (root / "dog" / "secret-copy.png").hardlink_to(root / "dog" / "0.png")
    os.mkfifo(root / "owl" / "secret-pipe.png")
    return root


def test_the_log_counts_and_holds_no_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = site_of(tmp_path)
    (tmp_path / "policy.yaml").write_text(POLICY)
    settings = SiteSettings("s", 0, root, CLASSES, tmp_path / "policy.yaml", tmp_path / "state", size=16, trust_bundles=True)
    logging.getLogger("mpssl_fed").propagate = True
    with caplog.at_level(logging.INFO, "mpssl_fed"):
        _, data, _ = check_site(settings)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "mpssl_fed.daemon"]
    for words in ("1 not read by their suffix", "1 dead links", "1 FIFOs, sockets or devices", "1 links to or copies of an image"):
        assert words in line
    assert "secret" not in caplog.text
    assert str(tmp_path) not in line
    assert len(data.images()) == 9


SPOILT = {
    "a label": lambda root: (root / "secret-label").mkdir() or picture(root / "secret-label" / "0.png"),
    "a name": lambda root: (root / "cat" / "secret-0.png").write_bytes(b"no image"),
    "a copy": lambda root: (root / "cat" / "secret-0.png").hardlink_to(root / "dog" / "0.png"),
    "the folder": lambda root: root.rename(root.parent / "secret-elsewhere"),
    "a subject": lambda root: (root.parent / "policy.yaml").write_text(f"{POLICY}unit: subject\n"),
}


@pytest.mark.parametrize("what", [*SPOILT, "nothing"])
def test_lines_for_machines_say_nothing_of_the_data_and_the_owner_finds_it(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, state = site_of(tmp_path), tmp_path / "state"
    (tmp_path / "policy.yaml").write_text(POLICY)
    if what in SPOILT:
        SPOILT[what](root)
    options = {"size": 16, "trust_bundles": True}
    plain = SiteSettings("s", 0, root, CLASSES, tmp_path / "policy.yaml", state, **options)
    lines = SiteSettings("s", 0, root, CLASSES, tmp_path / "policy.yaml", state, log_format="json", **options)
    logging.getLogger("mpssl_fed").propagate = True
    if what == "nothing":
        check_site(lines)
        said, full = caplog.text, "1 dead links"
    else:
        with pytest.raises(UserError) as whole:
            check_site(plain)
        assert not (state / ABOUT).exists()
        with pytest.raises(UserError) as error:
            check_site(lines)
        said, full = str(error.value) + caplog.text, str(whole.value)
    assert str(state / ABOUT) in said
    assert "secret" not in said
    assert str(root) not in said
    assert full in (state / ABOUT).read_text()
    assert (state / ABOUT).stat().st_mode & 0o777 == 0o600
    assert ABOUT in wipe(state)


def test_a_link_that_does_not_count_is_as_private_as_what_does(tmp_path: Path) -> None:
    root = site_of(tmp_path)
    files = OwnData(root, CLASSES).files()
    assert files[0] == root
    assert root / "dog" / "secret-copy.png" in files
    assert len(files) == 1 + 9 + 1


def test_no_word_where_nothing_is_left_out(tmp_path: Path) -> None:
    assert OwnData(tree(tmp_path) / "train", CLASSES, size=16).check() == ""


def test_a_daemon_reads_a_list_and_a_folder_alike(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "a.png")
    (tmp_path / "list.csv").write_text("path,label\ncat/a.png,cat\n")
    folder, listed = (OwnData(path, CLASSES, size=16, channels=1) for path in (tmp_path, tmp_path / "list.csv"))
    assert listed.is_csv
    assert folder.images().x.equal(listed.images().x)


@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        ("a,b, c ", None, ("a", "b", "c")),
        ("names.txt", "cat\n\n dog \nowl, barn\n", ("cat", "dog", "owl, barn")),
        ("names.txt", "\ufeffcat\r\ndog\r\n", ("cat", "dog")),
        ("names.json", json.dumps(["a,b", " c ", "d\ne"]), ("a,b", " c ", "d\ne")),
        (",".join(f"class {i}" for i in range(999)), None, tuple(f"class {i}" for i in range(999))),
    ],
)
def test_class_names(
    text: str, content: str | None, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(text).write_text(content, encoding="utf-8")
    assert class_names(text) == names


@pytest.mark.parametrize(
    ("text", "content", "said"),
    [
        ("a", None, "1 class"),
        (",", None, "0 class"),
        ("a,b,a", None, "'a' stands there 2 times"),
        ("x.txt", b"\xff\xfe", "want UTF-8"),
        ("x.json", b"{", "want a JSON list"),
        ("x.json", b'{"a": 1}', "want a JSON list"),
        ("x.json", b'["a", 1]', "want a JSON list"),
    ],
)
def test_class_names_that_are_none(
    text: str, content: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(text).write_bytes(content)
    with pytest.raises(UserError, match=f"--classes .*{said}"):
        class_names(text)
