"""The version of the method, apart from the method: who asks for it alone need not wait for torch."""

METHOD_VERSION = 2
"""Raised when the same config may give other numbers; committed result rows carry it."""
