"""Errors that are the user's to mend: the command line prints them without a traceback and exits with 2.

A message says what was given, where (file, key, sample), and what to do about it.
"""

EXIT_FAULT = 1
EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 143
"""128 + 15, as a shell reports a process that SIGTERM ended; Ctrl-C ends with it, too."""


class UserError(Exception):
    """Something the user gave cannot be used. Ends a command with exit code 2."""

    exit_code = EXIT_USER_ERROR
    shared = False
    """Every rank raises this very error, so one of them saying it is enough."""


class RunFailedError(Exception):
    """A run cannot go on, for a reason that is no bug of ours. Ends a command with exit code 1, without a traceback."""

    exit_code = EXIT_FAULT
    shared = False
    """Another rank says it, too."""


class ConfigError(UserError):
    """A configuration key or value that cannot be used."""


class DataError(UserError):
    """A data set, shard, image or mask that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint or run folder that cannot be used."""
