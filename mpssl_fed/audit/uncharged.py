"""A charge to no ledger, for audits of public data alone."""

from __future__ import annotations

from mpssl_fed.privacy.mechanism import Kind
from mpssl_fed.privacy.shared.history import History


class Uncharged:
    """Allows what the plan holds, {(sigma, q): releases}, and raises RuntimeError on one release more."""

    def __init__(self, planned: History) -> None:
        self.left = {key[:2]: n for key, n in planned.items()}

    def __call__(self, kind: Kind, sigma: float, q: float) -> None:
        """Count one release."""
        if self.left.get((sigma, q), 0) < 1:
            raise RuntimeError(f"release '{kind}' (sigma {sigma:g}, q {q:g}) is not in the plan")
        self.left[sigma, q] -= 1
