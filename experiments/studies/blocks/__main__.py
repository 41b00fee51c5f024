"""The command ``python -m experiments.studies.blocks``."""

from experiments.runs import cli
from experiments.studies.blocks import study

cli.launch(study.COMMAND)
