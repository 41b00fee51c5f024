"""The networks of the experiments, in plain Flax.

They know nothing of the optimizers. Called with ``train=True``, batch
normalization uses the batch's own statistics and changes its collection.
"""
