"""Labelled images: reading them, dealing them out to sites, augmenting them."""
