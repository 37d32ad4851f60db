"""What a text from outside may do to a reader of JSON: be read, or be refused by the one error that every caller waits for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpssl_fed.config import from_json
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.deployment import wire
from mpssl_fed.errors import UserError
from mpssl_fed.files import parse_json
from mpssl_fed.generators.biggan import read_json

DEEP = "[" * 100_000
BAD = ["", "{", DEEP, DEEP + "]" * 100_000, '{"a": 1, "a": 1}', '{"x": {"a": 1, "b": 2, "a": 3}}', "9" * 5000, '{"a": 1} x']


@pytest.mark.parametrize("text", BAD, ids=lambda text: str(text)[:30])
def test_one_error_for_whatever_is_no_json(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        parse_json(text)
    assert len(str(error.value)) < 200
    with pytest.raises(UserError, match="config in the message"):
        from_json(text)
    with pytest.raises(ValueError, match=r"."):
        Preparation.from_json(text)
    with pytest.raises(ValueError, match=r"."):
        wire.unpack(len(text).to_bytes(8, "little") + text.encode(), "request")
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    "text", ["null", "[]", "1", '"x"', "{}", '{"__metadata__": []}', '{"__metadata__": {"request": "x", "y": "z"}}']
)
def test_a_header_of_another_kind_is_no_safetensors(text: str) -> None:
    with pytest.raises(ValueError, match="metadata"):
        wire.unpack(len(text).to_bytes(8, "little") + text.encode(), "request")


def test_what_is_json_is_read() -> None:
    assert parse_json('{"a": [1, 2.5, null, {"b": "\\ud83d\\ude00"}], "c": {"a": true}}') == {
        "a": [1, 2.5, None, {"b": "😀"}],
        "c": {"a": True},
    }
