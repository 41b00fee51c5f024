"""The command ``python -m experiments.studies.methods``."""

from experiments.studies.methods import study

study.main()
