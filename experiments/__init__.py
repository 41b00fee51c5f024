"""The laboratory: trains small networks with gtddp_jax and its baselines."""

import os

# JAX's LAPACK calls on a CPU go to OpenBLAS, whose threads wait for each other
# by spinning, beside XLA's own: factorising 300 x 300 took 0.7 s instead of
# 4 ms on two cores. Has to be set before NumPy or SciPy is imported.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
