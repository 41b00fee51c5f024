"""Configurations of the experiments: `default` names every key."""
