"""Raw data sets: what a reader has to offer so that `pack` can turn it into shards.

A reader of one's own is any object with the attributes of `Source`, made by a function that `load_source` is given by
its dotted path. Worker processes receive it by pickle.
"""

import importlib
import inspect
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.codecs.headers import MAX_PIXELS
from dist_seg.data.codecs.npy import Values
from dist_seg.data.codecs.object_layers import RawObject
from dist_seg.data.codecs.targets import TASKS
from dist_seg.errors import DataError, StorageError, UserError
from dist_seg.masks.palette import Rgb


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRef:
    """A sample that is known and not yet read: cheap, and a pure description."""

    key: str
    """Unique in its split. May be a relative path; what a shard cannot hold in it is escaped by `pack`."""
    split: str
    where: str
    """What the user knows the sample by, the image's path as a rule: it stands in every error."""
    mask_where: str = ""
    """The same for the mask, where it is a file of its own."""
    num_bytes: int = 65536
    """About how large the encoded sample is: shards are filled by it before anything is read."""
    version: str = ""
    """Changes when the content does (size and time of the files, and what the reader makes of them), so that packing
    notices it. Empty: nothing tells, and a shard that was packed once is never taken for what would be packed now."""
    portable_version: str = ""
    """What of `version` is the same on every machine with the same data, such as what the masks' numbers mean, and no
    file's time: parts that differ in it are not merged."""
    payload: bytes = b""
    """What `load` needs of it besides the files, such as its part of a large annotation file; `version` tells of it."""


@dataclass(frozen=True, kw_only=True)
class RawSample:
    """A sample that was read."""

    image: bytes | Values
    """An encoded image in any format that is read, or a decoded one: (H, W) or (H, W, C) of uint8 or uint16."""
    mask: NDArray[np.integer] | NDArray[np.bool_]
    """(H, W) class ids below the number of classes, or the ignore index; of the size of the upright image.

    Of multi-label data (K, H, W): for each class a layer of bool, or of 1, 0 and the ignore index."""


class StrayAnnotationsError(DataError):
    """What a reader raises for a sample that is none, but stands for annotations of no image."""

    def __init__(self, reason: str, count: int) -> None:
        super().__init__(reason)
        self.count = count


@dataclass(frozen=True, kw_only=True)
class RawInstances:
    """A sample of instances that was read."""

    image: bytes | Values
    """As of a `RawSample`."""
    objects: tuple[RawObject, ...]
    height: int
    width: int
    """What the objects' masks are made for: the size of the upright image."""
    image_id: int
    file_name: str
    """As results name it."""
    problems: tuple[str, ...] = ()
    """Annotations that cannot be used, each with file, id and reason; they are not among the objects."""


Raw = TypeVar("Raw", bound=RawSample | RawInstances)


class InstanceSource(Protocol):
    """A raw data set of instances: as `Source`, with `task`, and objects for a mask."""

    @property
    def task(self) -> Literal["instance"]: ...

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Each class's id in the raw data set."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def palette(self) -> tuple[Rgb, ...]: ...

    @property
    def ignore_index(self) -> int: ...

    def samples(self) -> Sequence[SampleRef]:
        """As of a `Source`."""
        ...

    def load(self, sample: SampleRef) -> RawInstances:
        """As of a `Source`."""
        ...


class Source(Protocol):
    """A raw data set of masks: a pixel has one class, or with the attribute `task = "multilabel"` any number."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def palette(self) -> tuple[Rgb, ...]: ...

    @property
    def ignore_index(self) -> int: ...

    def samples(self) -> Sequence[SampleRef]:
        """Every sample, in the same order each time. Raises `DataError` for a data set that does not fit together."""
        ...

    def load(self, sample: SampleRef) -> RawSample:
        """Read one sample. Raises `DataError` for one that cannot be used; a pure function, called in any process."""
        ...


AnySource = Source | InstanceSource


def is_instances(source: AnySource) -> TypeGuard[InstanceSource]:
    """Whether a source gives objects. A reader of the user's own says so by `task = "instance"`."""
    return task_of(source) == "instance"


def task_of(source: AnySource) -> str:
    """`semantic` unless the source says otherwise."""
    return str(getattr(source, "task", "semantic"))


def load_source(path: str, arguments: Sequence[str] = ()) -> AnySource:
    """Call the function at a dotted path, `my_package.reader:make_source`, with the arguments, and check its result.

    Raises `UserError` naming the path where the module or the function is missing or the result is no source.
    """
    module_name, _, function_name = path.partition(":")
    if not module_name or not function_name:
        raise UserError(f"reader {path!r}: write it as package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"reader {path!r}: cannot import {module_name}: {error}; is it installed, or on PYTHONPATH?"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"reader {path!r}: {module_name} has no function {function_name}")
    source = _called(path, function, arguments)
    needed = ["class_names", "palette", "ignore_index", "samples", "load"]
    needed += ["category_ids"] if is_instances(source) else []
    if missing := [name for name in needed if not hasattr(source, name)]:
        raise UserError(f"reader {path!r}: what it returned, a {type(source).__name__}, lacks {', '.join(missing)}")
    return source


def _called(path: str, function: Callable[..., AnySource], arguments: Sequence[str]) -> AnySource:
    signature = inspect.signature(function)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise UserError(
            f"reader {path!r} takes {signature} and was given {list(arguments)}: {error}; give what it takes "
            "(--arguments)"
        ) from error
    try:
        return function(*arguments)
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything, on arguments that it cannot use as a rule
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"reader {path!r}, called with {list(arguments)}, failed at {at.filename}:{at.lineno}: "
            f"{type(error).__name__}: {error}"
        ) from error


def check_source(source: AnySource) -> None:
    """Raises `DataError` where the classes, their colours, ids and the ignore index do not go together."""
    names, palette = source.class_names, source.palette
    check_classes(names, "class names")
    if (task := task_of(source)) not in TASKS:
        raise DataError(f"the reader's task is {task!r}, must be {', '.join(TASKS[:-1])} or {TASKS[-1]}")
    if len(palette) != len(names):
        raise DataError(f"{len(names)} classes and {len(palette)} colours; there must be as many")
    if is_instances(source) and len(source.category_ids) != len(names):
        raise DataError(f"{len(names)} classes and {len(source.category_ids)} category ids; there must be as many")
    ignore_index: object = source.ignore_index
    is_number = isinstance(ignore_index, int) and not isinstance(ignore_index, bool)
    if not is_number or not len(names) <= source.ignore_index <= 255:
        raise DataError(
            f"ignore_index is {ignore_index!r} with {len(names)} classes; it must be a number from {len(names)} to 255"
        )
    if task == "multilabel" and source.ignore_index != IGNORE_INDEX:
        raise DataError(f"ignore_index is {ignore_index!r}; of multi-label data it must be {IGNORE_INDEX}")


def check_classes(names: Sequence[str], where: str) -> None:
    """Raises `DataError` for no class, too many, the same name twice, or one that is no text."""
    if not 1 <= len(names) <= 255:
        raise DataError(f"{where}: {len(names)} classes; there must be 1 to 255")
    for name in names:
        if list(names).count(name) > 1:
            raise DataError(f"{where}: class {name!r} stands there twice; give every class its own name")
        if not _is_text(name):
            raise DataError(f"{where}: the class name {name!r} is not UTF-8; rename it")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class RawReading:
    """How the files of a raw data set become samples."""

    max_pixels: int = MAX_PIXELS
    """Of an image or mask; a larger one is bad."""
    skip_bad: bool = False
    """What does not fit together, such as an image without a mask or a mask without an image, is a bad sample instead
    of an error."""


def loaded(sample: SampleRef, load: Callable[[], Raw]) -> Raw:
    """What `load` gives of the sample. Raises its `DataError`, `StorageError` for a file that cannot be read, and
    anything else with a note that names the sample."""
    try:
        return load()
    except (DataError, StorageError):
        raise
    except OSError as error:
        raise StorageError(f"{sample.where}: cannot be read: {error.strerror or error}") from error
    except Exception as error:
        error.add_note(f"The data set's reader failed on {sample.where}.")
        raise
