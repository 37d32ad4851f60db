from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mpssl_fed.errors import UserError
from mpssl_fed.generators import load_generator
from mpssl_fed.generators.grid import _label, _label_font, sample_grid, write_grid


@pytest.fixture(scope="module")
def generator():
    return load_generator("glyphs-digits")


def test_every_class_has_its_row_and_the_seed_decides(generator):
    few = sample_grid(generator, 3, seed=1, classes=["7", "A"])
    assert few.height == 2 * 34 + 2
    assert np.array_equal(few, sample_grid(generator, 3, seed=1, classes=["7", "A"]))
    assert not np.array_equal(few, sample_grid(generator, 3, seed=2, classes=["7", "A"]))
    margin = np.asarray(few)[:, : few.width - 3 * 34 - 2]
    assert (margin < 128).any()  # the class names are drawn
    assert sample_grid(generator, 2, seed=1).height == 12 * 34 + 2  # 36 classes in three columns


def test_written_file_is_a_png(generator, tmp_path):
    path = write_grid(generator, tmp_path / "deep" / "grid.png", per_class=2, classes=["3"], seed=0)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 2 * 32


def test_a_sheet_of_many_classes_is_about_square(generator):
    sheet = sample_grid(generator, 1, seed=1, classes=list(generator.classes) * 4)
    assert 0.5 < sheet.width / sheet.height < 2


def test_a_letter_that_the_label_font_lacks_is_named_by_its_code_point():
    font = _label_font()
    assert _label("khmer \u1780", font) == "khmer U+1780"
    assert _label("greek \u03b1", font) == "greek \u03b1"
    assert _label("a\nb", font) == "a\\nb"


def test_bad_arguments(generator):
    with pytest.raises(UserError, match=r"no class '#'"):
        sample_grid(generator, 1, seed=0, classes=["#"])
    with pytest.raises(UserError, match=r"samples per class is 0"):
        sample_grid(generator, 0, seed=0)
