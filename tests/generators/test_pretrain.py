from __future__ import annotations

import json

import pytest

from mpssl_fed.errors import UserError
from mpssl_fed.generators import foundation_classifier, load_generator
from mpssl_fed.generators.pretrain import GlyphSource, pretrain
from mpssl_fed.generators.settings import DistilSettings

SMALL = DistilSettings(iterations=3, channel_width=4, batch=6, bake_images=24, n_stats=3)


def run(fonts, out, **changes):
    stages = []
    source, options = GlyphSource(fonts, "chars:TLV", 3), {"foundation_steps": 5, **changes}
    manifest = pretrain(source, out, SMALL, report=lambda *step: stages.append(step), **options)
    return manifest, stages


def test_short_run_writes_a_folder_that_loads(fonts, tmp_path):
    manifest, stages = run(fonts, tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert json.loads((tmp_path / "mine" / "manifest.json").read_text()) == json.loads(json.dumps(manifest))
    assert {stage for stage, *_ in stages} == {"fonts", "distil", "foundation classifier"}
    generator = load_generator("biggan", tmp_path / "mine", truncation=0.5)
    assert generator.classes == ("T", "L", "V")
    assert generator.state_hash() == manifest["state_hash"]
    assert foundation_classifier("mine", tmp_path / "mine").classes == generator.classes
    assert manifest["training"]["iterations_done"] == 3
    assert set(manifest["quality"]) == {"sample_accuracy", "render_accuracy", "worst_class", "spread"}
    assert all(len(font["sha256"]) == 64 for font in manifest["fonts"])


def test_existing_folder_is_kept_unless_told(fonts, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "precious").write_text("x")
    with pytest.raises(UserError, match=r"--out .*mine exists.*--overwrite"):
        run(fonts, out)
    assert (out / "precious").exists()
    (out / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(UserError, match="no generator's folder, so nothing here overwrites it"):
        run(fonts, out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "precious"]


def test_overwriting_replaces_the_generator_and_nothing_else(fonts, tmp_path):
    out = tmp_path / "mine"
    run(fonts, out)
    (out / "precious").write_text("x")
    (tmp_path / "link").symlink_to(out)
    second, _ = run(fonts, tmp_path / "link", overwrite=True)
    assert (out / "precious").read_text() == "x"
    assert (tmp_path / "link").is_symlink()
    assert json.loads((out / "manifest.json").read_text())["made"] == second["made"]
    assert load_generator("biggan", out).z_dim == SMALL.z_dim
    with pytest.raises(UserError, match="is no folder"):
        run(fonts, out / "precious", overwrite=True)


@pytest.mark.parametrize("stage", ["fonts", "foundation classifier"])
def test_ctrl_c_outside_training_writes_nothing(fonts, tmp_path, stage):
    def interrupt(name, done, total, loss):
        if name == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(GlyphSource(fonts, "chars:TLV", 3), tmp_path / "mine", SMALL, foundation_steps=5, report=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_too_large_a_generator_is_refused(fonts, tmp_path):
    wide = DistilSettings(iterations=1, channel_width=48, batch=6, bake_images=6, n_stats=2)
    with pytest.raises(UserError, match=r"over 3000000; lower --channel-width"):
        pretrain(GlyphSource(fonts, "chars:TLV", 3), tmp_path / "w", wide, foundation_steps=5, report=lambda *_: None)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="--iterations is 0"):
        pretrain(GlyphSource(fonts, "chars:TLV", 3), tmp_path / "w", DistilSettings(iterations=0))
