"""One training: program, loop, checkpoints, devices, its page."""
