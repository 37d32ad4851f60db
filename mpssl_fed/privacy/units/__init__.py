"""What one unit (an image or a subject) adds to a release: its vector, taken alike in every batch, clipped and summed."""
