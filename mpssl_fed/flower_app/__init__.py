"""The Flower app, as a package: ``clients`` and ``server`` under names of ours, so that nobody else's ``server`` is met.

In a wheel they lie beside this file, in a checkout at its top: :func:`mpssl_fed.config.app_folder`, which ``flwr run`` takes.
"""

from __future__ import annotations

from mpssl_fed.config import app_folder

__path__ = [str(app_folder())]
