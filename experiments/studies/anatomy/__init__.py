"""A step taken apart, from the last checkpoint of a training."""
