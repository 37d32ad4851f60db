"""Noise that sites share in a sum, and how what was released is counted where some of it is."""
