"""Errors: what they say, which kind they are, and that they travel between processes."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from dist_seg.data.codecs.encoded import BadSample
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.raw.source import StrayAnnotationsError
from dist_seg.data.shards.bad_shards import BadShardError
from dist_seg.data.view.reader import BadSampleError
from dist_seg.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LocatedError,
    MissingObjectError,
    StorageError,
    UnreachableError,
    UserError,
)

_BAD = BadSample(key="k", shard="s.tar", reason="cut off")
_ERRORS: list[LocatedError] = [
    UserError("no such thing"),
    ConfigError("is 3", where="a.yaml: train.steps"),
    DataError("is damaged", where=Path("folder") / "s.tar"),
    MissingObjectError("no such file", where="x"),
    UnreachableError("given up", where="s3://bucket/x"),
    CheckpointError("is damaged", where="step-00000001"),
    UndecodableError("empty", where="mask"),
    BadShardError("s.tar", "is missing"),
    BadSampleError(_BAD),
    StrayAnnotationsError("7 annotations of no image", 7),
]


def test_the_message_names_the_place_before_the_reason() -> None:
    error = DataError("is damaged: twice", where=Path("folder") / "s.tar")
    assert (str(error), error.where, error.reason) == (
        "folder/s.tar: is damaged: twice",
        "folder/s.tar",
        "is damaged: twice",
    )


def test_an_error_without_a_place_is_its_reason() -> None:
    error = UserError("a: b")
    assert (str(error), error.where, error.reason) == ("a: b", "", "a: b")


def _raised(error: LocatedError) -> None:
    raise error


@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
def test_a_pickled_error_is_the_same_error(error: LocatedError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.__dict__) == (type(error), str(error), error.__dict__)


def test_errors_come_back_from_a_worker_process() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as workers:
        for error in _ERRORS:
            with pytest.raises(type(error)) as raised:
                workers.submit(_raised, error).result()
            assert (str(raised.value), raised.value.reason) == (str(error), error.reason)


def test_an_error_that_every_rank_raises_still_says_so_after_a_pickle() -> None:
    error = DataError("is damaged")
    error.shared = True
    assert pickle.loads(pickle.dumps(error)).shared


def test_a_failing_storage_is_no_bad_data_and_a_missing_object_is() -> None:
    assert not issubclass(StorageError, DataError)
    assert issubclass(MissingObjectError, DataError) and not issubclass(MissingObjectError, StorageError)
    assert (StorageError.exit_code, UnreachableError.exit_code, MissingObjectError.exit_code) == (2, 1, 2)
