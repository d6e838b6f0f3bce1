"""The protocol of a raw data set: what a reader must offer so that `pack` can turn it into shards.

The formats of this package follow it, and so does a reader of your own: any object with the attributes of `Source`
or `InstanceSource`, returned by a function that `load_source` finds by its dotted path. Worker processes receive it
by pickle.
"""

import inspect
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.codecs.headers import MAX_PIXELS
from dist_seg.data.codecs.npy import Values
from dist_seg.data.codecs.object_layers import RawObject
from dist_seg.data.codecs.targets import TASKS
from dist_seg.errors import DataError, StorageError, UserError
from dist_seg.masks.palette import Rgb
from dist_seg.runtime.dotted_path import import_function

if TYPE_CHECKING:
    from typing_extensions import TypeIs


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRef:
    """A sample that is listed but not yet read."""

    key: str
    """Unique in its split. May be a relative path; `pack` escapes characters that a shard's keys cannot have."""
    split: str
    where: str
    """How the user knows the sample, usually the path of its image. Every error about the sample begins with it."""
    mask_where: str = ""
    """The same for the mask, if it is a file of its own."""
    num_bytes: int = 65536
    """Approximate size of the encoded sample. Samples are spread over shards by it before anything is read."""
    version: str = ""
    """Changes when the sample's content does: size and time of its files, and how the reader interprets them. If it is
    empty, packing cannot tell whether a sample changed, and never reuses a shard that was packed earlier."""
    portable_version: str = ""
    """The part of `version` that is the same on every machine with the same data, such as what the numbers in masks
    mean, but no file's time. Parts of a data set that differ in it are not merged."""
    payload: bytes = b""
    """What `load` needs besides the files, such as the sample's position in a large annotation file. Has to be covered
    by `version`."""
    fault: str = ""
    """Why the sample cannot be used, with the file's name. Such a sample counts as bad, and is never loaded."""
    stray_annotations: int = 0
    """Number of annotations without an image that this faulty entry stands for. It is then no sample of its own."""


@dataclass(frozen=True, kw_only=True)
class RawSample:
    """A sample with a mask, as read from the raw data set."""

    image: bytes | Values
    """An encoded image in any format that is read, or a decoded one: (H, W) or (H, W, C) of uint8 or uint16."""
    mask: NDArray[np.integer] | NDArray[np.bool_]
    """(H, W) class ids below the number of classes, or the ignore index; as large as the upright image.

    For multi-label data (K, H, W): a layer for each class, of bool or of 1, 0 and the ignore index."""


@dataclass(frozen=True, kw_only=True)
class RawInstances:
    """A sample with objects, as read from the raw data set."""

    image: bytes | Values
    """As in `RawSample`."""
    objects: tuple[RawObject, ...]
    height: int
    width: int
    """The size that the objects' masks are made for: that of the upright image."""
    image_id: int
    file_name: str
    """The image's name in results."""
    problems: tuple[str, ...] = ()
    """Annotations that cannot be used, each with file, id and reason. They are not among the objects."""


class StrayAnnotationsError(DataError):
    """Raised by `load` for an entry that is no sample, but stands for annotations without an image."""

    def __init__(self, reason: str, count: int) -> None:
        super().__init__(reason)
        self.count = count


class _Listed(Protocol):
    """What all raw data sets share."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def palette(self) -> tuple[Rgb, ...]: ...

    @property
    def ignore_index(self) -> int: ...

    def samples(self) -> Sequence[SampleRef]:
        """Every sample, in the same order each time. Raises `DataError` for a data set that does not fit together."""
        ...


class Source(_Listed, Protocol):
    """A raw data set of masks. A pixel has one class, or with the attribute `task = "multilabel"` any number."""

    def load(self, sample: SampleRef) -> RawSample:
        """Read one sample. Raises `DataError` for one that cannot be used; a pure function, called in any process."""
        ...


class InstanceSource(_Listed, Protocol):
    """A raw data set of instances: objects instead of a mask."""

    @property
    def task(self) -> Literal["instance"]: ...

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The id of each class in the raw data set."""
        ...

    def load(self, sample: SampleRef) -> RawInstances:
        """Read one sample, as in `Source`."""
        ...


AnySource = Source | InstanceSource


def is_instances(source: AnySource) -> "TypeIs[InstanceSource]":
    """Whether the source has objects instead of masks, which its attribute `task = "instance"` tells."""
    return task_of(source) == "instance"


def task_of(source: AnySource) -> str:
    """The source's attribute `task`; `semantic` if it has none."""
    return str(getattr(source, "task", "semantic"))


Raw_co = TypeVar("Raw_co", bound=RawSample | RawInstances, covariant=True)


class _Loads(Protocol[Raw_co]):
    def load(self, sample: SampleRef) -> Raw_co: ...


def load_sample(source: _Loads[Raw_co], sample: SampleRef) -> Raw_co:
    """Read a sample. Raises what `load` does: `DataError` for a sample that cannot be used.

    Raises `StorageError` for a file that cannot be read, and any other exception with a note that names the sample.
    """
    if sample.stray_annotations:
        raise StrayAnnotationsError(sample.fault, sample.stray_annotations)
    if sample.fault:
        raise DataError(sample.fault)
    try:
        return source.load(sample)
    except (DataError, StorageError):
        raise
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror or error}", where=sample.where) from error
    except Exception as error:
        error.add_note(f"The data set's reader failed on {sample.where}.")
        raise


@dataclass(frozen=True, kw_only=True)
class RawReading:
    """How the formats of this package read files."""

    max_pixels: int = MAX_PIXELS
    """Limit for an image or mask; a larger one is bad."""
    skip_bad: bool = False
    """Entries that do not fit together, such as an image without a mask, become bad samples instead of an error."""


def load_source(path: str, arguments: Sequence[str] = ()) -> AnySource:
    """Call your function at a dotted path, `my_package.reader:make_source`, and check that it returned a source.

    Raises `UserError` naming the path if there is no such function, if it fails, or if its result is no source.
    """
    function = import_function(path, "reader")
    signature = inspect.signature(function)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise UserError(
            f"reader {path!r} takes {signature}, but was given {list(arguments)}: {error}; change --arguments"
        ) from error
    try:
        source = cast(AnySource, function(*arguments))  # what it lacks is found below
    except UserError:
        raise
    except Exception as error:  # your code may raise anything, usually on arguments that it cannot use
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"reader {path!r}, called with {list(arguments)}, failed at {at.filename}:{at.lineno}: "
            f"{type(error).__name__}: {error}"
        ) from error
    needed = ["class_names", "palette", "ignore_index", "samples", "load"]
    needed += ["category_ids"] if is_instances(source) else []
    if missing := [name for name in needed if not hasattr(source, name)]:
        raise UserError(f"reader {path!r} returned a {type(source).__name__}, which lacks {', '.join(missing)}")
    return source


def check_source(source: AnySource) -> None:
    """Raises `DataError` if classes, colours, category ids and the ignore index do not go together."""
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
        raise DataError(f"ignore_index is {ignore_index!r}; for multi-label data it must be {IGNORE_INDEX}")


def check_classes(names: Sequence[str], where: str) -> None:
    """Raises `DataError` for no class, too many, two of the same name, or a name that is not UTF-8."""
    if not 1 <= len(names) <= 255:
        raise DataError(f"{where}: {len(names)} classes; there must be 1 to 255")
    for name in names:
        if list(names).count(name) > 1:
            raise DataError(f"{where}: class {name!r} is listed twice; give every class its own name")
        if not _is_text(name):
            raise DataError(f"{where}: the class name {name!r} is not UTF-8; rename it")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
