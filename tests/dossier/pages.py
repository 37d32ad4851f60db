"""Dossiers for tests, read as a browser would: each value with the file and the key that it cites, and all other text."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from mpssl_fed.audit.attack import Estimate
from mpssl_fed.audit.report import Line, Section, write_audit
from mpssl_fed.cli import build
from tests.audit.test_words import facts, sections

HOUSE = Path(__file__).parents[2]
VOID, ENDS = {"meta", "link", "br", "img"}, {"td", "th", "li", "p"}


def fixtures(folder: Path) -> Path:
    """Copy the files of version 0.1, the private run with an audit of site 0; modes as they were, which Git keeps not."""
    shutil.copytree(HOUSE / "tests" / "fixtures" / "v0_1", folder)
    for path in folder.rglob("ledger.sqlite*"):
        path.chmod(0o600)
    area = {"auroc": {"value": 0.5312, "low": 0.4871, "high": 0.5753}}
    found = Section("membership", [Line("loss threshold", None, None, "AUROC 0.53")], "", [area | {"attack": "loss threshold"}])
    assert Estimate.__dataclass_fields__.keys() == area["auroc"].keys()
    write_audit(folder / "run" / "sites" / "0" / "audit", facts("end-to-end"), [sections(0.97, 0.1, "end-to-end")[0]])
    file = folder / "run" / "sites" / "0" / "audit" / "audit.json"
    content = json.loads(file.read_text())
    content["audits"]["membership"] = {"lines": [vars(line) for line in found.lines], "numbers": found.numbers}
    file.write_text(json.dumps(content))
    return folder


def call(*words: str | Path) -> tuple[int, str]:
    """Run a command and return its status and what it said."""
    done = CliRunner().invoke(build(), [str(word) for word in words], catch_exceptions=False)
    return done.exit_code, done.output


@dataclass
class Cited:
    """A value that cites a key of a file; quote: one of the docs, word for word."""

    file: str
    key: str
    how: str
    quote: bool
    value: str = ""


@dataclass
class Page(HTMLParser):
    """A dossier: what is cited, and the text around it (style sheet, plots and sources aside)."""

    cited: list[Cited] = field(default_factory=list)
    text: str = ""
    _open: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    @staticmethod
    def of(file: Path) -> Page:
        page = Page()
        page.feed(file.read_text())
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if "data-file" in given:
            self.cited.append(
                Cited(given["data-file"] or "", given["data-key"] or "", given.get("data-how") or "", tag == "blockquote")
            )
        if tag not in VOID:
            self._open.append((tag, given))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Nothing is inside."""

    def handle_endtag(self, tag: str) -> None:
        if tag in ENDS and self.cited:
            self.cited[-1].value += "\n"
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        names = {tag for tag, _ in self._open}
        classes = {word for _, given in self._open for word in (given.get("class") or "").split()}
        if names & {"style", "svg", "script"} or "source" in classes:
            return
        if "blockquote" in names or ("value" in classes and self._cites()):
            self.cited[-1].value += data
        else:
            self.text += data + "\n"

    def _cites(self) -> bool:
        return any("data-file" in given for _, given in self._open)


class Files:
    """Looks a cited key up, without the code that wrote the page. policy: of a site."""

    def __init__(self, folder: Path, policy: Path | None = None) -> None:
        self.folder, self.policy = folder, policy
        self._read: dict[str, Any] = {}

    def find(self, file: str, key: str) -> Any:
        """Return what stands there; KeyError where nothing does."""
        if file not in self._read:
            self._read[file] = self._open(file)
        content = self._read[file]
        if file == "metrics.jsonl":
            return self._of_rounds(content, key)
        for length in range(len(key.split(".")), 0, -1):  # a name may hold a dot
            head, rest = ".".join(key.split(".")[:length]), key.split(".")[length:]
            if isinstance(content, dict) and head in content:
                found = content[head]
                for part in rest:
                    found = found[int(part)] if isinstance(found, list) else found[part]
                return found
        raise KeyError(f"{file}: {key}")

    def _of_rounds(self, lines: list[dict[str, Any]], key: str) -> Any:
        how, name, *rest = key.split(".")
        if how == "last":
            found = lines[-1][name]
            for part in rest:
                found = found[part]
            return found
        if name == "rejected":
            return sum(sum(line[name].values()) if not rest else line[name].get(rest[0], 0) for line in lines)
        return sum(line[name] for line in lines)

    def _open(self, file: str) -> Any:
        if file.startswith("mpssl_fed/"):
            return json.loads((HOUSE / file).read_text())
        if file.endswith("METADATA"):
            package = re.fullmatch(r"(.+)-([^-]+)\.dist-info/METADATA", file)
            assert package
            found = metadata(package[1])
            assert found["Version"] == package[2]
            return {key: found[key] for key in found}
        path = self.folder / file
        if file.endswith(".sqlite"):
            status, said = call("ledger", "show", path, "--json", *(["--policy", self.policy] if self.policy else []))
            assert status == 0
            return json.loads(said)
        if file.endswith(".safetensors"):
            content = path.read_bytes()
            (length,) = struct.unpack("<Q", content[:8])
            header = json.loads(content[8 : 8 + length])
            architecture = json.loads(header.pop("__metadata__")["architecture"])
            entries = sum((one["data_offsets"][1] - one["data_offsets"][0]) // 4 for one in header.values())
            return {"sha256": hashlib.sha256(content).hexdigest(), "parameters": entries, "architecture": architecture}
        if file.endswith(".jsonl"):
            return [json.loads(line) for line in path.read_text().splitlines()]
        return json.loads(path.read_text()) if file.endswith(".json") else yaml.safe_load(path.read_text())
