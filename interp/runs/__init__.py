"""Folders of experiments: what is finished is loaded, and what is killed goes on.

| what | function |
| --- | --- |
| the folder of a config: stages, figures, results | `open_run`, `Run` |
| a summary in words, a number with its interval | `report`, `interval` |
| an experiment from the command line | `script` |
| what a folder is named by, and what computed in it | `config_hash`, `plain`, `provenance` |
"""

from interp.runs.config import config_hash, plain
from interp.runs.machine import provenance
from interp.runs.run import Run, open_run
from interp.runs.said import interval, report, script

__all__ = [
    "Run",
    "config_hash",
    "interval",
    "open_run",
    "plain",
    "provenance",
    "report",
    "script",
]
