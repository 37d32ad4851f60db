"""A folder that a second user of this machine can reach, for tests of what that one may do in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.sites import open_folder


@pytest.fixture
def open_path() -> Iterator[Path]:
    """``tmp_path`` for two users: pytest's own lies in a folder that is closed, and closed again by whatever pytest starts next."""
    with open_folder() as folder:
        yield folder
