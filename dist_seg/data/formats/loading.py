"""Calling a reader, of the user's own perhaps, so that what it fails with names the sample."""

from collections.abc import Callable
from typing import TypeVar

from dist_seg.data.formats import RawInstances, RawSample, SampleRef
from dist_seg.errors import DataError
from dist_seg.storage.object_store import StorageError

Raw = TypeVar("Raw", bound=RawSample | RawInstances)


def loaded(sample: SampleRef, load: Callable[[], Raw]) -> Raw:
    """What `load` gives of the sample. Raises its `DataError`, `StorageError` for a file that cannot be read, and
    anything else with a note that names the sample."""
    try:
        return load()
    except DataError:
        raise
    except OSError as error:
        raise StorageError(f"{sample.where}: cannot be read: {error.strerror or error}") from error
    except Exception as error:
        error.add_note(f"The data set's reader failed on {sample.where}.")
        raise
