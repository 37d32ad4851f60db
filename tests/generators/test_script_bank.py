from __future__ import annotations

import numpy as np
import pytest

from mpssl_fed.errors import UserError
from mpssl_fed.generators.broad import bank as script_bank
from mpssl_fed.generators.broad.bank import keep_classes, load_scripts, script_of
from mpssl_fed.generators.broad.scripts import RANGES, TEXTURES, VARIATIONS, scripts, textures
from mpssl_fed.generators.glyphs import draw_font

LETTERS = {"greek": tuple("αβΣ"), "cyrillic": tuple("ДЖΣ")}


def sums(bank) -> list[str]:
    return [font.sha256 for font in bank.fonts]


def test_no_font_and_no_texture_that_is_kept_apart_is_taught(fonts, monkeypatch):
    monkeypatch.setattr(script_bank, "FONTS_A_SCRIPT", 4)
    banks = load_scripts(fonts, letters=LETTERS)
    assert banks.shared == ()
    assert set(sums(banks.taught)).isdisjoint(sums(banks.unseen))
    assert banks.taught.classes == banks.unseen.classes
    assert banks.taught.classes[:4] == ("greek α", "greek β", "greek Σ", "cyrillic Д")
    assert [script_of(name) for name in banks.taught.classes].count("texture") == len(TEXTURES)
    assert all(bank.present.any(0).all() for bank in (banks.taught, banks.unseen))
    greek = banks.taught.present[:, :3].any(1)
    assert greek.sum() == 4


def test_where_every_font_is_taught_its_glyphs_stand_in_and_are_named(fonts):
    banks = load_scripts(fonts, letters=LETTERS)
    letters = [name for name in banks.taught.classes if script_of(name) != "texture"]
    assert banks.shared == tuple(letters)
    for name in letters:
        c = banks.taught.classes.index(name)
        a, b = (bank.glyphs[bank.present[:, c], c] for bank in (banks.taught, banks.unseen))
        assert np.array_equal(a, b)
    ours, theirs = ({font.sha256 for font in bank.fonts if font.package == "mpssl-fed"} for bank in (banks.taught, banks.unseen))
    assert ours
    assert theirs
    assert not ours & theirs
    fewer = keep_classes(banks, [0, len(letters)])
    assert fewer.taught.classes == ("greek α", f"texture {TEXTURES[0]}")
    assert fewer.shared == ("greek α",)
    assert len(fewer.taught.fonts) == len(fewer.taught.glyphs) == len(fewer.taught.present)


def test_one_letter_of_two_scripts_is_one_class(fonts):
    banks = load_scripts(fonts, letters={"latin": tuple("AHQ"), "greek": tuple("ΑΗΨ")})
    assert [name for name in banks.taught.classes if script_of(name) != "texture"] == ["latin A", "latin H", "latin Q", "greek Ψ"]


def test_no_font_no_bank(tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    with pytest.raises(UserError, match=r"1 font files found, and no script.*unpack_fonts\.py FOLDER --scripts"):
        load_scripts(tmp_path, letters=LETTERS)


def test_a_font_is_given_up_only_where_it_draws_too_little(fonts):
    half = tuple("AB\u1780\u1781")  # DejaVu has no Khmer
    path = fonts / "DejaVuSans.ttf"
    glyphs, present = draw_font(path, half, 0.5)
    assert present.tolist() == [True, True, False, False]
    assert np.array_equal(glyphs, draw_font(path, half)[0])
    assert draw_font(path, half, 0.51) is None


def test_scripts_and_textures_are_what_they_say():
    named = scripts()
    letters = [letter for script in named.values() for letter in script]
    assert len(named) == len(RANGES) >= 25
    assert len(letters) == len(set(letters)) >= 600
    first, again = textures(48), textures(48)
    assert np.array_equal(first, again)
    assert first.shape == (VARIATIONS, len(TEXTURES), 48, 48)
    ink = (first > 127).mean((2, 3))
    assert 0.05 < ink.min() < ink.max() < 0.95
    assert np.array_equal(textures(48, range(3, 5)), first[3:5])
