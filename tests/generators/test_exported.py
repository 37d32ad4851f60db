"""A generator as one file: the same images and gradients as the one it was made from; what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mpssl_fed.errors import UserError
from mpssl_fed.generators import Generator, export_generator, load_generator
from mpssl_fed.generators.biggan import load_folder


class Blobs(Generator):
    """A map of z and label, squashed."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.z_dim, self.classes, self.size, self.truncation = "blobs", 4, ("a", "b", "c"), 8, 1.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.map = nn.Linear(7, 3 * 8 * 8)

    def forward(self, z: Tensor, soft_label: Tensor) -> Tensor:
        return self.map(torch.cat([z, soft_label], 1)).tanh().view(-1, 3, 8, 8)


class Infinite(Blobs):
    def forward(self, z: Tensor, soft_label: Tensor) -> Tensor:
        return super().forward(z, soft_label) / 0.0


class Deaf(Blobs):
    def forward(self, z: Tensor, soft_label: Tensor) -> Tensor:
        return super().forward(z, torch.zeros_like(soft_label))


def drawn(generator: Generator, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return images and their gradients to z and label."""
    z = generator.sample_z(n, torch.Generator().manual_seed(1)).requires_grad_()
    label = torch.eye(len(generator.classes))[torch.arange(n) % len(generator.classes)].requires_grad_()
    x = generator(z, label)
    return (x.detach(), *torch.autograd.grad(x.square().sum(), [z, label]))


def test_round_trip_keeps_images_and_gradients(write_biggan, tmp_path):
    source = load_folder(write_biggan(), "tiny", 0.5)
    path = export_generator(source, tmp_path / "tiny.pt2")
    generator = load_generator("exported", path, truncation=0.5)
    assert (generator.z_dim, generator.size, generator.classes) == (source.z_dim, source.size, source.classes)
    assert not any(p.requires_grad for p in generator.parameters())
    for n in (1, 2, 5):
        for mine, theirs in zip(drawn(generator, n), drawn(source, n), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    digest = generator.state_hash()
    assert digest == load_generator("exported", path, truncation=0.5).state_hash()
    assert generator.train().state_hash() == digest


def test_the_hash_tells_programs_apart_that_share_their_weights(tmp_path):
    class Negative(Blobs):
        def forward(self, z: Tensor, soft_label: Tensor) -> Tensor:
            return -super().forward(z, soft_label)

    one, other = (
        load_generator("exported", export_generator(g, tmp_path / f"{type(g).__name__}.pt2")) for g in (Blobs(), Negative())
    )
    assert one.state_hash() != other.state_hash()


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_torchscript_with_a_sidecar_written_by_hand(tmp_path):
    source = Blobs().eval()
    torch.jit.save(torch.jit.trace(source, (torch.zeros(2, 4), torch.zeros(2, 3))), tmp_path / "blobs.pt")
    (tmp_path / "blobs.json").write_text(json.dumps({"z_dim": 4, "size": 8, "classes": ["a", "b", "c"]}))
    for mine, theirs in zip(drawn(load_generator("exported", tmp_path / "blobs.pt", 0.7), 3), drawn(source, 3), strict=True):
        assert mine.shape == theirs.shape
    z, label = torch.ones(3, 4), torch.eye(3)
    torch.testing.assert_close(load_generator("exported", tmp_path / "blobs.pt")(z, label), source(z, label))


@pytest.fixture(scope="module")
def blobs(tmp_path_factory) -> Path:
    return export_generator(Blobs(), tmp_path_factory.mktemp("exported") / "blobs.pt2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 16}, "gives images [2, 3, 8, 8]; want [2, 3, 16, 16]"),
        ({"z_dim": 5}, "failed to draw images from z [1, 5] and soft labels [1, 3]"),
        ({"classes": ["a", "b"]}, "failed to draw images from z [1, 4] and soft labels [1, 2]"),
        ({"classes": ["a", "a", "b"]}, "it must be a list of distinct class names"),
        ({"classes": 3}, "classes is 3"),
        ({"z_dim": None}, "z_dim is None; it must be a whole number"),
        ({"truncation": 0.5}, "was exported at 0.5; set it to 0.5"),
    ],
)
def test_a_sidecar_that_does_not_fit(blobs, tmp_path, change, words):
    (tmp_path / "blobs.pt2").symlink_to(blobs)
    (tmp_path / "blobs.json").write_text(json.dumps({**json.loads(blobs.with_suffix(".json").read_text()), **change}))
    with pytest.raises(UserError) as error:
        load_generator("exported", tmp_path / "blobs.pt2")
    assert words in str(error.value)
    assert "blobs." in str(error.value)


@pytest.mark.parametrize(
    ("kind", "words"), [(Infinite, "images that are not finite"), (Deaf, "no finite gradient from its images")]
)
def test_a_program_that_does_not_keep_the_protocol(tmp_path, kind, words):
    path = export_generator(kind(), tmp_path / "bad.pt2")
    with pytest.raises(UserError, match=words):
        load_generator("exported", path)


def test_a_program_of_one_batch_size(blobs, tmp_path):
    program = torch.export.export(Blobs(), (torch.zeros(2, 4), torch.zeros(2, 3)))
    torch.export.save(program, tmp_path / "two.pt2")
    (tmp_path / "two.json").write_text(blobs.with_suffix(".json").read_text())
    with pytest.raises(UserError, match=r"two\.pt2 .*failed to draw images from z \[1, 4\]"):
        load_generator("exported", tmp_path / "two.pt2")


def test_files_that_are_missing_or_something_else(blobs, tmp_path):
    lonely = tmp_path / "lonely.pt2"
    lonely.write_bytes(blobs.read_bytes())
    for path, words in (
        (None, r"needs generator\.path"),
        (tmp_path / "x.onnx", r"a \.pt2 or \.pt file"),
        (tmp_path / "no.pt2", r"no\.pt2, which does not exist"),
        (lonely, r"lonely\.json, which does not exist.*export_generator"),
    ):
        with pytest.raises(UserError, match=words):
            load_generator("exported", path)
    (tmp_path / "lonely.json").write_text(blobs.with_suffix(".json").read_text())
    lonely.write_bytes(b"text")
    with pytest.raises(UserError, match=r"lonely\.pt2 is no torch\.export or TorchScript file"):
        load_generator("exported", lonely)
    torch.save({"a": torch.zeros(1)}, lonely)
    with pytest.raises(UserError, match=r"lonely\.pt2 is no readable torch\.export file"):
        load_generator("exported", lonely)
    with pytest.raises(UserError, match=r"ends in '\.pt'"):
        export_generator(Blobs(), tmp_path / "x.pt")
