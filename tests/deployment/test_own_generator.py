"""No byte of a site's generator is run unless its policy lists it, whatever is put in its place and when."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mpssl_fed.cli import build
from mpssl_fed.config import Config, from_mapping
from mpssl_fed.deployment.own_generator import OwnGenerator, policy_entry
from mpssl_fed.errors import UserError
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.generators import load_generator
from mpssl_fed.generators.biggan import embedded_folder
from mpssl_fed.generators.files import copy_approved, sums
from mpssl_fed.privacy.policy import Policy, load_policy
from tests.generators.traps import write_blobs, write_trap

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
RANDOM = {"data": {"name": "none", "task": {"classes": ["a", "b"], "channels": 1}}, "method": {"name": "naive-gssl"}}


def config(name: str) -> Config:
    return from_mapping(RANDOM | {"generator": {"name": name}})


def policy(*generators: dict[str, Any]) -> Policy:
    rules = {"dataset": "d", "public_size": 10, "max_epsilon": 1, "delta": 1e-3, "scope": "off"}
    return Policy.model_validate(rules | {"generators": [{"trained_on": "fonts"} | one for one in generators]})


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., OwnGenerator]:
    """``own(entry, ..., path=...)`` -> what a daemon with this policy holds; each call is a new start of it."""

    def make(*entries: dict[str, Any], path: Path | None = None) -> OwnGenerator:
        return OwnGenerator(policy(*entries), None if path is None else str(path), tmp_path / "state" / "cache" / "generators")

    return make


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    return write_blobs(tmp_path / "own" / "blobs.pt")


def listed(path: Path) -> dict[str, Any]:
    return {"name": "exported", "files": sums(path)}


def test_listed_files_are_loaded_from_a_private_copy_of_what_was_compared(own: Callable[..., OwnGenerator], blobs: Path) -> None:
    mine = own(listed(blobs), path=blobs)
    mine.check()
    local, generator, identity = mine.load(config("exported"))
    assert generator is not None
    assert identity == policy(listed(blobs)).generators[0].identity
    copy = Path(str(local.generator.path))
    assert copy.parent.parent == mine.copies
    assert {path.name: path.stat().st_mode & 0o777 for path in copy.parent.iterdir()} == {"blobs.pt": 0o600, "blobs.json": 0o600}
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    assert mine.load(config("exported"))[1] is generator  # loaded once a process
    both = own(listed(blobs) | {"sha256": generator.state_hash()}, path=blobs)
    assert both.load(config("exported"))[2] == generator.state_hash()


def test_a_trap_is_run_by_whoever_loads_it(tmp_path: Path) -> None:
    """Else the tests below could not fail."""
    load_generator("exported", write_trap(tmp_path / "trap.pt", tmp_path / "marker"))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("when", ["before the start", "after the start", "after the first round"])
def test_another_file_in_its_place_is_not_run(own: Callable[..., OwnGenerator], blobs: Path, tmp_path: Path, when: str) -> None:
    entry = listed(blobs)
    mine = own(entry, path=blobs)
    if when != "before the start":
        mine.check()
    if when == "after the first round":
        first = mine.load(config("exported"))[1]
    write_trap(blobs, tmp_path / "marker")
    if when == "before the start":
        with pytest.raises(UserError, match=r"the policy lists no generator of these files \(blobs\.\w+: "):
            mine.check()
    if when == "after the first round":
        assert mine.load(config("exported"))[1] is first
    else:
        with pytest.raises(Refusal, match="generator"):
            mine.load(config("exported"))
        assert not list(mine.copies.glob("*"))
    again = own(entry, path=blobs)  # a copy of an earlier process is not believed
    with pytest.raises(Refusal, match="generator"):
        again.load(config("exported"))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("change", ["sidecar", "program", "link", "fifo", "missing", "folder"])
def test_every_file_counts(own: Callable[..., OwnGenerator], blobs: Path, change: str) -> None:
    mine = own(listed(blobs), path=blobs)
    file = blobs.with_suffix(".json") if change == "sidecar" else blobs
    content = file.read_bytes()
    file.unlink()
    if change in ("sidecar", "program"):
        file.write_bytes(content + b" ")
    elif change == "link":
        file.symlink_to("/dev/zero")  # endless
    elif change == "fifo":
        os.mkfifo(file)  # whoever opened it to read would wait for ever
    elif change == "folder":
        file.mkdir()
    with pytest.raises(Refusal, match="generator"):
        mine.load(config("exported"))


def test_what_the_policy_does_not_list_is_not_there_to_be_read(own: Callable[..., OwnGenerator], tmp_path: Path) -> None:
    """A folder without its classes.json has other class names: numbers."""
    folder = tmp_path / "folder"
    copy_approved(embedded_folder("glyphs-digits"), sums(embedded_folder("glyphs-digits")), folder)
    some = {name: digest for name, digest in sums(folder).items() if name in ("config.json", "pytorch_model.bin")}
    _, generator, _ = own({"name": "folder", "files": some}, path=folder).load(config("folder"))
    assert generator is not None
    assert generator.classes[:3] == ("0", "1", "2")
    assert generator.classes[10:12] == ("10", "11")
    _, whole, _ = own({"name": "folder", "files": sums(folder)}, path=folder).load(config("folder"))
    assert whole is not None
    assert whole.classes[10:12] == ("A", "B")


def test_what_comes_installed_needs_no_list_and_never_lies_at_the_owners_path(
    own: Callable[..., OwnGenerator], blobs: Path
) -> None:
    shipped = {"name": "glyphs-digits", "sha256": load_generator("glyphs-digits").state_hash()}
    mine = own(shipped, listed(blobs), path=blobs)
    mine.check()
    local, generator, identity = mine.load(config("glyphs-digits"))
    assert (local.generator.path, identity) == (None, shipped["sha256"])
    assert generator is not None
    assert mine.load(config("exported"))[0].generator.path is not None
    assert mine.load(from_mapping(RANDOM | {"method": {"name": "base"}}))[1:] == (None, None)


@pytest.mark.parametrize("name", ["exported", "folder", "biggan", "biggan-deep-128"])
def test_a_state_hash_alone_permits_no_file(own: Callable[..., OwnGenerator], blobs: Path, name: str) -> None:
    """It could be compared only after the file has run."""
    mine = own({"name": name, "sha256": "0" * 64}, path=blobs)
    with pytest.raises(UserError, match=rf"generator '{name}' does not come with the toolkit; list the SHA-256 of its files"):
        mine.check()
    with pytest.raises(Refusal, match="generator"):
        mine.load(config(name))


def test_a_published_generator_is_compared_where_it_was_fetched_to(
    own: Callable[..., OwnGenerator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "mpssl-fed" / "generators" / "biggan-deep-128"
    copy_approved(embedded_folder("glyphs-letters"), sums(embedded_folder("glyphs-letters")), cache)
    mine = own({"name": "biggan-deep-128", "files": sums(cache)})
    assert cache / "pytorch_model.bin" in mine.public_places()
    before = sorted(cache.iterdir())
    assert mine.load(config("biggan-deep-128"))[1] is not None
    assert sorted(cache.iterdir()) == before
    (cache / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(Refusal, match="generator"):
        own({"name": "biggan-deep-128", "files": sums(cache) | {"pytorch_model.bin": "0" * 64}}).load(config("biggan-deep-128"))


def test_the_printed_lines_are_what_a_policy_needs(own: Callable[..., OwnGenerator], blobs: Path, tmp_path: Path) -> None:
    write_trap(blobs, tmp_path / "marker")
    rules = "dataset: d\npublic_size: 10\nmax_epsilon: 1\ndelta: 1.0e-3\n"
    for words, file in ((["exported", "--path", str(blobs)], "a.yaml"), (["glyphs-digits"], "b.yaml")):
        done = CliRunner().invoke(build(), ["policy", "generator", *words], catch_exceptions=False)
        (tmp_path / file).write_text(rules + done.output)
        assert load_policy(tmp_path / file).generators[0].name == words[0]
    assert load_policy(tmp_path / "a.yaml").generators[0].files == sums(blobs)
    assert load_policy(tmp_path / "b.yaml").generators[0].sha256 == load_generator("glyphs-digits").state_hash()
    assert not (tmp_path / "marker").exists()  # read, not run


def test_a_rehearsals_policy_lists_what_it_will_load(blobs: Path, tmp_path: Path) -> None:
    fields = {"name": "exported", "path": str(blobs)}
    asked = from_mapping(RANDOM | {"generator": fields})
    entry = policy_entry(asked, load_generator("exported", blobs))
    assert entry["files"] == sums(blobs)
    mine = OwnGenerator(policy(entry), str(blobs), tmp_path / "copies")
    mine.check()
    assert mine.load(asked)[2] == entry["sha256"]
    assert "files" not in policy_entry(config("glyphs-digits"), load_generator("glyphs-digits"))


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b", "./a", "a//b", "a/", "a\nb", "a\x00b", "x" * 256, ".", ".."])
def test_names_that_lead_out_of_the_folder(name: str) -> None:
    with pytest.raises(ValueError, match="below the generator's folder"):
        policy({"name": "folder", "files": {name: "0" * 64}})


def test_an_entry_that_names_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="give its state hash"):
        policy({"name": "folder"})
