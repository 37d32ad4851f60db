"""A run on disk: its folder, its reader, checkpoints, manifest, model file, events and progress."""
