"""Names that others chose are shown whole or escaped, and no two alike."""

from __future__ import annotations

import json
import os
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.names import as_text, brief, distinct, printable, shown, some, width

TEXT = st.one_of(
    st.text(st.characters(), max_size=12),
    st.text(st.sampled_from("ab \\\n\tnxu0fé\x1b\u202e\u200b\udcff\u0085\xa0e\u0301"), max_size=8),
    st.binary(min_size=1, max_size=8).map(os.fsdecode),
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cat", "cat"),
        ("[left] :smile: $x$ 50 % <b> 'q' \"q\" & # | `", "[left] :smile: $x$ 50 % <b> 'q' \"q\" & # | `"),
        ("größe 图 кот قط 😀", "größe 图 кот قط 😀"),
        ("two\nlines", r"two\nlines"),
        ("a\x1b[31mred", r"a\x1b[31mred"),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
        (" a ", r"\x20a\x20"),
        ("a  b", r"a \x20b"),
        ("a\xa0b", r"a\u00a0b"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\u0085", r"\u0085"),
        (os.fsdecode(b"\x85"), r"\x85"),
        ("C:\\Temp", "C:\\Temp"),
        (r"a\nb", r"a\\nb"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_whole_or_escaped(name: str, text: str) -> None:
    assert shown(name) == text


@settings(max_examples=400)
@given(TEXT, TEXT)
def test_different_names_never_look_the_same(one: str, other: str) -> None:
    assert (shown(one) == shown(other)) == (one == other)
    assert (as_text(one) == as_text(other)) == (one == other)
    for text in (shown(one), printable(one), as_text(one)):
        text.encode()
        assert json.loads(json.dumps(text)) == text
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") for c in shown(one))
    assert not any(unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t" for c in printable(one))


@settings(max_examples=300)
@given(
    st.lists(
        st.one_of(TEXT, st.text("ab", min_size=20, max_size=24), st.text("图a", min_size=8, max_size=12)), max_size=12, unique=True
    )
)
def test_cut_names_stay_apart_and_short(names: list[str]) -> None:
    short = distinct(names, 9)
    assert len({unicodedata.normalize("NFC", text) for text in short}) == len(names)
    assert all(width(text) <= 9 for text in short)


def test_names_that_begin_and_end_alike() -> None:
    assert distinct(["cat", "pneumonia-bacterial-left", "pneumonia-viral-and-left"], 12) == ["cat", "pneumoni…eft", "pneumonia…#3"]
    assert distinct(["cafe\u0301", "caf\xe9"], 9) == ["cafe\u0301", "caf\xe9…#2"]


def test_long_ones_are_cut_and_many_counted() -> None:
    assert len(brief("x" * 5000)) == 200
    assert some(["a", "b\n", "c"], 2) == r"a, b\n and 1 more"
