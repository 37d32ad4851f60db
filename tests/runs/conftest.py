"""The tiny real runs of the federation's tests."""

from tests.federation.conftest import run_tiny, tiny

__all__ = ["run_tiny", "tiny"]
