"""The command ``python -m experiments.studies.anatomy``."""

from experiments.studies.anatomy import study

study.main()
