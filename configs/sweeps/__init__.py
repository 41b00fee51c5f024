"""Sweeps: each file sets keys of ``configs.default.get_sweep``."""
