"""Data sets: catalogue, raw files, prepared files, batches of (seed, step)."""
