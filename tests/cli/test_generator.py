from __future__ import annotations

from dataclasses import replace

from matplotlib import get_data_path
from typer.testing import CliRunner

from mpssl_fed.cli import build
from mpssl_fed.errors import UserError
from mpssl_fed.generators import load_generator
from mpssl_fed.generators.broad import bank, pretrain

FONTS = f"{get_data_path()}/fonts/ttf"


def call(*words):
    return CliRunner().invoke(build(), [str(word) for word in words])


def test_pretrain_generator_in_plain_lines(tmp_path):
    result = call(
        "pretrain-generator", "--fonts", FONTS, "--out", tmp_path / "g", "--classes", "chars:TL", "--iterations", 3,
        "--channel-width", 4, "--min-fonts", 3, "--max-fonts", 12, "--foundation-steps", 3,
    )  # fmt: skip
    assert result.exception is None, result.output
    assert "distil, loss" in result.output
    assert "names" in result.output
    assert load_generator("biggan", tmp_path / "g").classes == ("T", "L")


def test_pretrain_generator_errors(tmp_path):
    few = call("pretrain-generator", "--fonts", tmp_path, "--out", tmp_path / "g")
    assert isinstance(few.exception, UserError)
    assert "0 font files found" in str(few.exception)
    narrow = call("pretrain-generator", "--fonts", FONTS, "--out", tmp_path / "g", "--channel-width", 2)
    assert isinstance(narrow.exception, UserError)
    assert "--channel-width is 2" in str(narrow.exception)
    other = call("pretrain-generator", "--fonts", FONTS, "--out", tmp_path / "g", "--channel-width", 8, "--kind", "vqvae")
    assert isinstance(other.exception, UserError)
    assert "only --kind biggan" in str(other.exception)


def test_pretrain_generator_of_scripts(tmp_path, monkeypatch):
    monkeypatch.setattr(bank, "scripts", lambda: {"digits": ("2", "7"), "latin": ("K", "Q")})  # enough for the seconds
    monkeypatch.setattr(pretrain, "SETTINGS", replace(pretrain.SETTINGS, bake_images=60, n_stats=3))
    (tmp_path / "fonts").mkdir()
    for name in ("cmr10.ttf", "cmb10.ttf"):
        (tmp_path / "fonts" / name).symlink_to(f"{FONTS}/{name}")
    words = ("pretrain-generator", "--fonts", tmp_path / "fonts", "--out", tmp_path / "g", "--classes", "scripts")
    result = call(*words, "--iterations", 2, "--channel-width", 4, "--foundation-steps", 2)
    assert result.exception is None, result.output
    assert "The gate of 60% DOES NOT HOLD" in result.output
    classes = load_generator("biggan", tmp_path / "g").classes
    assert {"digits 7", "latin Q", "texture rings-1"} <= set(classes)
    for option, value in (("--min-fonts", 3), ("--max-fonts", 3), ("--kind", "vqvae")):
        wrong = call(*words, "--overwrite", option, value)
        assert isinstance(wrong.exception, UserError)
        assert f"{option} does not go with --classes scripts" in str(wrong.exception)


def test_fetch_names_what_can_be_fetched():
    result = call("fetch", "biggan")
    assert isinstance(result.exception, UserError)
    assert "biggan-deep-128, biggan-deep-256, biggan-deep-512" in str(result.exception)
