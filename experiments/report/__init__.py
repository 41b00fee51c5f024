"""Tables, charts and intervals: numbers in, pages out. Knows no JAX."""
