"""Errors that a user can cause, each one an exit status of the command line.

Everything below derives from `UserError`, which a command prints on stderr without a traceback and
turns into exit status 2. The message says the rule, the value and the remedy. Read next: `log`.
"""


def shown(value: object) -> str:
    """Give a value of a setting for a message: nothing is YAML's null, not Python's None."""
    return "null" if value is None else repr(value)


class UserError(Exception):
    """A fault of the input: what was asked for cannot be done, and the message says why."""


class ConfigError(UserError, ValueError):
    """A setting, or a pair of settings, that is wrong."""


class DataError(UserError, ValueError):
    """A data file or one of its rows that cannot be used."""


class ModelError(UserError, ValueError):
    """A checkpoint folder or a tokenizer that cannot be used."""


class ResourceError(UserError, RuntimeError):
    """More workers, devices or memory than the machine or the cluster has."""


class NonFiniteLossError(RuntimeError):
    """The loss or the gradient became NaN or infinite; the trial ends before the optimizer step."""


class ZeroLossError(RuntimeError):
    """The loss became exactly 0, which no training gets to; the trial ends before the step."""


class StorageError(RuntimeError):
    """The disk of the results has no more room; what was saved before is whole."""


class NoEffectError(RuntimeError):
    """Training has changed nothing of what the model says; the trial ends with nothing saved."""
