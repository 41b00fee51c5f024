"""A command: flags, validation, folder, lock, provenance, signals, progress."""
