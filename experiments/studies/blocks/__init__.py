"""What the block-diagonal approximation of the value Hessian drops."""
