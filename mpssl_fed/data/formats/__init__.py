"""Formats that need more than a decoder of pixels, and the cache of what was decoded."""
