"""Many runs from one config: which they are, running them, what came out."""
