"""The laboratory: trains small networks with gtddp_jax and its baselines."""
