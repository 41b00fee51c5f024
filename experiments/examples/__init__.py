"""Scripts to start from; each needs the library and its own lines alone."""
