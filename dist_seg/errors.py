"""Errors that are the user's to mend: the command line prints them without a traceback and exits with 2.

A message says what was given, where (file, key, sample), and what to do about it.
"""


class UserError(Exception):
    """Something the user gave cannot be used. Ends a command with exit code 2."""


class ConfigError(UserError):
    """A configuration key or value that cannot be used."""


class DataError(UserError):
    """A data set, shard, image or mask that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint or run folder that cannot be used."""
