"""Sites, messages, strategies and the round loop, on Flower's Message API."""

from __future__ import annotations

from mpssl_fed import environment

environment.apply()
