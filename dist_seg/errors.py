"""The errors that end a command without a traceback, and the exit codes they end it with.

A message says what was given, where (file, key, sample), and what to do about it.
"""

from pathlib import Path

EXIT_FAULT = 1
EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 143
"""128 + 15, the code a shell reports for a process that SIGTERM ended. Ctrl-C ends a run with it too."""


class LocatedError(Exception):
    """An error whose message is `WHERE: REASON`, or the reason alone if `where` is not given."""

    def __init__(self, reason: str = "", *, where: str | Path = "") -> None:
        self.where, self.reason = str(where), reason
        super().__init__(f"{self.where}: {reason}" if self.where else reason)

    def __reduce__(self) -> tuple[object, ...]:
        # Exception would call the class with the message alone, which a subclass with other parameters does not take.
        return _rebuilt, (type(self), self.args), self.__dict__


def _rebuilt(kind: type[LocatedError], args: tuple[object, ...]) -> LocatedError:
    return kind.__new__(kind, *args)


class UserError(LocatedError):
    """Something the user gave cannot be used. Ends a command with exit code 2."""

    exit_code = EXIT_USER_ERROR
    shared = False
    """Every rank raises this very error, so it is enough that one of them prints it."""


class RunFailedError(Exception):
    """A run cannot continue, for a reason that is no bug of ours. Ends a command with exit code 1, no traceback."""

    exit_code = EXIT_FAULT
    shared = False
    """Another rank prints it too."""


class ConfigError(UserError):
    """A configuration key or value that cannot be used."""


class DataError(UserError):
    """A data set, shard, image or mask that cannot be used."""


class MissingObjectError(DataError):
    """A file or object that is not there.

    This is a fault of the data, not of the storage, which answered: a run that tolerates bad shards also tolerates
    missing ones. So it is a DataError.
    """


class StorageError(UserError):
    """A file or object that is or may be there and cannot be read or written: the disk, network or permissions.

    Not a DataError: whoever skips bad data must not skip what a failing disk withholds.
    """


class UnreachableError(StorageError):
    """A storage that failed until the time for retries was over: a fault of the environment, not the user's."""

    exit_code = EXIT_FAULT


class CheckpointError(UserError):
    """A checkpoint or run folder that cannot be used."""
