"""A SuperNode whose ClientApps need not import Flower for each message: see :mod:`mpssl_fed.deployment.warm.nest`."""
