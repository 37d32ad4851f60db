"""``python -m mpssl_fed.cli``: the command line of this very installation."""

from __future__ import annotations

from mpssl_fed.cli import main

main()
