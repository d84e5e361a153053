"""The configuration: one frozen tree, read from a YAML file, checked whole before anything starts.

`tree` has the sections, `agreement` the rules between them, `load` reads files and `overrides`,
`faults` words what is wrong with them; `check` holds a configuration against the model and the data
on disk, with `paths`, `corners`, `measuring`, `deciding`, `limits` and `places` as its parts;
`plan` is the arithmetic that follows from it.
"""

from raytune_glm.config.load import (
    load_run,
    load_sweep,
    parse_run,
    run_of,
    trial_run,
    write_trial_file,
)
from raytune_glm.config.tree import RunConfig, SweepConfig

__all__ = [
    "RunConfig",
    "SweepConfig",
    "load_run",
    "load_sweep",
    "parse_run",
    "run_of",
    "trial_run",
    "write_trial_file",
]
