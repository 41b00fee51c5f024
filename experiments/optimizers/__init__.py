"""Base optimizers, their schedules, accumulation, and how they are named."""
