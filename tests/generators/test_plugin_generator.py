"""A generator of another package is tried once when it is loaded: what does not keep the protocol is refused there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from mpssl_fed.errors import UserError
from mpssl_fed.generators import load_generator

MODULE = '''
import torch
from torch import nn
from mpssl_fed.generators import Generator

class Blobs(Generator):
    """A linear map of z and label, squashed."""

    def __init__(self, truncation, size=16):
        super().__init__()
        self.name, self.z_dim, self.classes, self.size, self.truncation = "blobs", 4, ("a", "b", "c"), size, truncation
        torch.manual_seed(0)
        self.map = nn.Linear(7, 3 * 16 * 16)

    def forward(self, z, soft_label):
        return self.map(torch.cat([z, soft_label], 1)).tanh().view(len(z), 3, 16, 16)

class Unbounded(Blobs):
    def forward(self, z, soft_label):
        return 9 * super().forward(z, soft_label)

class Broken(Blobs):
    def forward(self, z, soft_label):
        return super().forward(z, soft_label) / 0

class Deaf(Blobs):
    def forward(self, z, soft_label):
        return super().forward(z, soft_label.detach())

class Rounded(Blobs):
    @torch.no_grad()
    def forward(self, z, soft_label):
        return super().forward(z, soft_label)

class Narrow(Blobs):
    def forward(self, z, soft_label):
        return super().forward(z[:, :2], soft_label)

class Single(Blobs):
    def __init__(self, truncation):
        super().__init__(truncation)
        self.classes = ("a",)

class Nameless(Blobs):
    def __init__(self, truncation):
        super().__init__(truncation)
        del self.z_dim

def good(path, truncation): return Blobs(truncation)
def large(path, truncation): return Blobs(truncation, size=32)
def unbounded(path, truncation): return Unbounded(truncation)
def broken(path, truncation): return Broken(truncation)
def deaf(path, truncation): return Deaf(truncation)
def rounded(path, truncation): return Rounded(truncation)
def narrow(path, truncation): return Narrow(truncation)
def single(path, truncation): return Single(truncation)
def nameless(path, truncation): return Nameless(truncation)
def none(path, truncation): return nn.Linear(1, 1)
'''
NAMES = ("good", "large", "unbounded", "broken", "deaf", "rounded", "narrow", "single", "nameless", "none")


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution: a module and the metadata that names its entry points."""
    (tmp_path / "blobs_of_another.py").write_text(MODULE)
    metadata = tmp_path / "blobs_of_another-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: blobs-of-another\nVersion: 1.0\n")
    lines = ["[mpssl_fed.generators]", *(f"blobs-{name} = blobs_of_another:{name}" for name in NAMES)]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "blobs_of_another", raising=False)


@pytest.mark.usefixtures("plugins")
def test_one_that_keeps_the_protocol_is_ready_to_use() -> None:
    generator = load_generator("blobs-good", truncation=0.5)
    assert not any(p.requires_grad for p in generator.parameters())
    z = generator.sample_z(3, torch.Generator().manual_seed(1))
    assert generator(z, torch.eye(3)).shape == (3, 3, 16, 16)


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("large", "gives images [2, 3, 16, 16]; want [2, 3, 32, 32]"),
        ("unbounded", "want [-1, 1], as from tanh"),
        ("broken", "not finite"),
        ("deaf", "no finite gradient from its images to the soft label"),
        ("rounded", "no finite gradient from its images to z"),
        ("narrow", "failed to draw images from z [1, 4] and soft labels [1, 3]: RuntimeError"),
        ("single", "has 1 class(es)"),
        ("nameless", "lacks the attribute(s) z_dim"),
        ("none", "is a Linear"),
    ],
)
def test_one_that_does_not_is_refused_by_name(name: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        load_generator(f"blobs-{name}")
    assert words in str(error.value)
    assert f"'blobs-{name}'" in str(error.value)
