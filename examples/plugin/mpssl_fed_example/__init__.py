"""A loss and a data set for mpssl-fed from outside the package."""
