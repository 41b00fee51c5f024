"""The command ``python -m experiments.studies.blocks``."""

from experiments.studies.blocks import study

study.main()
