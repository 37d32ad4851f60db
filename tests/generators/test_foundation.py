from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torchvision import models

from mpssl_fed.errors import UserError
from mpssl_fed.generators import foundation_classifier
from mpssl_fed.generators.foundation import train_glyph_classifier
from mpssl_fed.generators.glyphs import load_glyphs


def test_training_learns_and_is_frozen_after(fonts):
    bank = load_glyphs(fonts, tuple("TLO"), min_fonts=3)
    model, record = train_glyph_classifier(bank, steps=60, seed=0)
    assert record["held_out_accuracy"] > 0.8  # chance is .33
    assert not any(p.requires_grad for p in model.parameters())
    x = torch.rand(2, 3, 28, 28, requires_grad=True)
    F.softmax(model(x), 1)[:, 0].sum().backward()
    assert x.grad.abs().sum() > 0


def test_published_generators_take_a_resnet_file(tmp_path):
    with pytest.raises(UserError, match=r"p-ssl with biggan-deep-128 needs an ImageNet classifier"):
        foundation_classifier("biggan-deep-128")
    with pytest.raises(UserError, match="do not exist"):
        foundation_classifier("biggan-deep-128", tmp_path / "none.pth")
    resnet = models.resnet18()
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    classifier = foundation_classifier("biggan-deep-128", tmp_path / "resnet18.pth")
    grey = torch.rand(1, 1, 32, 32) * 2 - 1
    assert classifier(grey).shape == (1, 1000)
    resnet.fc = torch.nn.Linear(512, 10)
    torch.save(resnet.state_dict(), tmp_path / "ten.pth")
    with pytest.raises(UserError, match=r"fc.weight \(10, 512\) instead of \(1000, 512\)"):
        foundation_classifier("biggan-deep-128", tmp_path / "ten.pth")


def test_generators_without_one_and_broken_files(tmp_path):
    with pytest.raises(UserError, match="generator 'biggan' has no foundation classifier"):
        foundation_classifier("biggan")
    with pytest.raises(UserError, match="has no foundation classifier"):
        foundation_classifier("glyphs-digits", tmp_path)
    (tmp_path / "foundation.json").write_text('{"classes": ["a", "b"]}')
    (tmp_path / "foundation.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        foundation_classifier("glyphs-digits", tmp_path)
