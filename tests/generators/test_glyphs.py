from __future__ import annotations

import numpy as np
import pytest
import torch

from mpssl_fed.errors import UserError
from mpssl_fed.generators.glyphs import (
    BOX,
    CLASS_SETS,
    GLYPH_SIZE,
    LIKE_DIGITS,
    NUISANCES,
    class_set,
    load_glyphs,
    look_alike,
    render,
)


@pytest.fixture(scope="module")
def bank(fonts):
    return load_glyphs(fonts, tuple("AB8T"), min_fonts=3)


def test_class_sets():
    assert class_set("digits") == tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    letters = class_set("letters")
    assert len(letters) >= 60
    assert not any(character.isdigit() for character in letters)
    assert not set(letters) & set("".join(LIKE_DIGITS.values()))
    assert class_set("chars:xyz") == ("x", "y", "z")
    with pytest.raises(UserError, match=r"'digit' is no class set.*Did you mean 'digits'"):
        class_set("digit")
    with pytest.raises(UserError, match="each once"):
        class_set("chars:xx")
    assert all(len(set(characters)) == len(characters) for characters in CLASS_SETS.values())


def test_glyphs_fill_the_box_and_symbol_fonts_are_left_out(bank, fonts):
    assert bank.glyphs.shape == (len(bank.fonts), 4, GLYPH_SIZE, GLYPH_SIZE)
    assert bank.present.any(0).all()
    for glyph in bank.glyphs[bank.present]:
        rows, columns = np.nonzero(glyph > 8)
        assert BOX - 3 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= BOX
    used = {font.file for font in bank.fonts}
    assert "DejaVuSans.ttf" in used
    assert "STIXSizOneSymReg.ttf" not in used
    assert len(used) < len(list(fonts.glob("*.ttf")))


def test_too_few_fonts_says_how_many_and_where_to_get_more(fonts, tmp_path):
    with pytest.raises(UserError, match=r"font files found, \d+ usable.*1000 needed.*tools/unpack_fonts.py"):
        load_glyphs(fonts, tuple("AB"), min_fonts=1000)
    with pytest.raises(UserError, match="0 font files found, 0 usable"):
        load_glyphs(tmp_path / "nowhere", tuple("AB"))
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    with pytest.raises(UserError, match="1 font files found, 0 usable"):
        load_glyphs(tmp_path, tuple("AB"), min_fonts=1)


def test_class_that_no_font_draws(fonts):
    with pytest.raises(UserError, match="no usable font draws 㐀"):
        load_glyphs(fonts, ("A", "B", "㐀"), min_fonts=1)


def test_render_range_shape_and_what_the_nuisances_do(bank):
    row = int(np.flatnonzero(bank.present[:, 3])[0])
    glyph = torch.from_numpy(bank.glyphs[row, 3]).float()[None] / 255
    plain = render(glyph, torch.zeros(1, NUISANCES))
    assert plain.shape == (1, 1, 32, 32)
    assert plain.min() >= -1 - 1e-5
    assert plain.max() <= 1 + 1e-5
    assert plain[0, 0, 0, 0].item() == pytest.approx(-1, abs=1e-5)
    for index in range(NUISANCES):
        moved = torch.zeros(1, NUISANCES)
        moved[0, index] = 1.5
        assert (render(glyph, moved) - plain).abs().mean() > 1e-3, index
    bold = torch.zeros(1, NUISANCES)
    bold[0, 6] = 2.0
    assert render(glyph, bold).mean() > plain.mean() > render(glyph, -bold).mean()


def test_render_is_differentiable_in_both(bank):
    glyph = (torch.from_numpy(bank.glyphs[:2, 0]).double() / 255).requires_grad_()
    nuisance = torch.full((2, NUISANCES), 0.3, dtype=torch.float64, requires_grad=True)
    render(glyph, nuisance).square().mean().backward()
    assert (nuisance.grad.abs() > 0).all()
    assert glyph.grad.abs().sum() > 0


def test_look_alike_tells_twins_from_strangers(fonts):
    some = load_glyphs(fonts, tuple("OTM"), min_fonts=3)
    digits = load_glyphs(fonts, tuple("0123456789"), min_fonts=3)
    likeness = look_alike(some, digits)
    assert likeness["O"][0] == "0"
    assert likeness["O"][1] > 0.8
    assert likeness["M"][1] < 0.6
    assert look_alike(digits, digits)["7"] == ("7", pytest.approx(1.0))
