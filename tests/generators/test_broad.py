from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.errors import UserError
from mpssl_fed.generators import foundation_classifier, load_generator
from mpssl_fed.generators.broad.bank import load_scripts
from mpssl_fed.generators.broad.gate import Gate, Made, _fewer, _kept, pass_gate
from mpssl_fed.generators.broad.pretrain import ScriptSource, pretrain_scripts
from mpssl_fed.generators.distil import distil
from mpssl_fed.generators.foundation import train_glyph_classifier
from mpssl_fed.generators.settings import DistilSettings

LETTERS = {"greek": tuple("αβΣ"), "cyrillic": tuple("ДЖЩ")}
SMALL = DistilSettings(iterations=3, channel_width=4, batch=6, bake_images=60, n_stats=3)


@pytest.fixture(scope="module")
def made(fonts) -> Made:
    banks = load_scripts(fonts, letters=LETTERS)
    model, _ = distil(banks.taught, SMALL, lambda *_: None)
    classifier, _ = train_glyph_classifier(banks.unseen, 3, 0, unseen=banks.taught)
    return Made(model.eval(), banks, classifier)


def test_short_run_writes_a_folder_that_loads_and_says_what_was_dropped(fonts, tmp_path):
    stages = set()
    manifest = pretrain_scripts(
        ScriptSource(fonts, LETTERS),
        tmp_path / "broad",
        SMALL,
        gate=Gate(0.9, fewest=7, per_class=4, classifier_steps=5),
        report=lambda stage, *_: stages.add(stage),
    )
    assert stages == {"scripts", "distil", "foundation classifier"}
    assert [path.name for path in tmp_path.iterdir()] == ["broad"]
    assert json.loads((tmp_path / "broad" / "manifest.json").read_text()) == json.loads(json.dumps(manifest))
    generator = load_generator("biggan", tmp_path / "broad", truncation=0.5)
    assert len(generator.classes) == 7  # three steps teach nothing: the gate gives up at the fewest
    gate = manifest["gate"]
    assert not gate["held"]
    assert sorted({*gate["dropped"], *generator.classes}) == sorted(load_scripts(fonts, letters=LETTERS).taught.classes)
    assert not set(gate["dropped"]) & set(generator.classes)
    assert sum(manifest["classes_by_script"].values()) == 7
    assert set(gate["by_script"]) == set(manifest["classes_by_script"])
    assert foundation_classifier("broad", tmp_path / "broad").classes == generator.classes
    assert all(len(font["sha256"]) == 64 for key in ("fonts", "classifier_fonts") for font in manifest[key])
    with pytest.raises(UserError, match="exists"):
        pretrain_scripts(ScriptSource(fonts, LETTERS), tmp_path / "broad", SMALL)


def test_a_gate_that_holds_drops_nothing(made):
    left, record = pass_gate(made, Gate(0.0, fewest=1, per_class=2), SMALL)
    assert left is made
    assert record["held"]
    assert record["dropped"] == []


def test_classes_left_draw_and_read_as_before(made):
    kept = [0, 2, 5, 9]
    names = tuple(made.banks.taught.classes[c] for c in kept)
    z, count = torch.randn(8, SMALL.z_dim).clamp(-2, 2), len(made.banks.taught.classes)
    y = torch.arange(4).repeat(2)
    with torch.no_grad():
        before = made.model(z, F.one_hot(torch.tensor(kept)[y], count).float(), 1.0)
        left = _fewer(Made(copy.deepcopy(made.model), made.banks, made.classifier), kept)
        after = left.model.eval()(z, F.one_hot(y, 4).float(), 1.0)
        assert torch.equal(before, after)
        assert torch.allclose(left.classifier(after), made.classifier(before)[:, kept], atol=1e-5)
    assert left.classifier.classes == left.banks.taught.classes == left.banks.unseen.classes == names
    assert left.model.config.num_classes == 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=30), st.integers(1, 30), st.floats(0, 1))
def test_the_gate_keeps_as_many_as_pass_and_the_best(counts, fewest, asked):
    rates = torch.tensor(counts) / 40
    kept = _kept(rates, Gate(asked, fewest))
    assert len(kept) >= min(fewest, len(rates))
    others = [c for c in range(len(rates)) if c not in kept]
    if others:
        assert rates[kept].min() >= rates[others].max()
        more = torch.cat([rates[kept], rates[others].max()[None]])
        assert more.mean() < asked + 1e-6
    if len(kept) > min(fewest, len(rates)):
        assert rates[kept].mean() >= asked - 1e-6
