"""The NVIDIA DALI loader: native threads decode micro-batches and, with a GPU, also place them.

This is the only module that imports `nvidia.dali`. Samples are fed as encoded bytes with their drawn transforms, so
that the plan, the reading and the handling of bad samples are the same as with the torch loader.
"""

import io
import logging
import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import nvidia.dali
import nvidia.dali.fn as fn
import torch
from nvidia.dali import Pipeline
from nvidia.dali.data_node import DataNode
from nvidia.dali.types import Constant, DALIDataType, DALIImageType, DALIInterpType
from PIL import Image
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from dist_seg.data.codecs.encoded import EncodedSample, Ids, TargetKind
from dist_seg.data.codecs.headers import UndecodableError, read_header
from dist_seg.data.codecs.npy import ArrayLayout, encode_npy
from dist_seg.data.loading.assemble import (
    Recipe,
    array_region,
    decode_reference,
    finish,
    group_by_size,
    place,
    reject_undecodable,
)
from dist_seg.data.loading.augment import SampleTransform
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.fetch import DrawnSample, Fetched, Fetcher, Unit, drawn_samples, read_ahead

VERSION = str(nvidia.dali.__version__)
_READ_THREADS = 8
_READ_AHEAD = 2
"""Micro-batches that are read in advance."""
_log = logging.getLogger(__name__)


class _DecodeError(Exception):
    """DALI could not make a batch. It does not say which sample is to blame."""


def dali_batches(
    fetcher: Fetcher[Unit],
    units: Iterable[Unit],
    *,
    recipe: Recipe,
    max_batch: int,
    prefetch: int,
    num_threads: int,
    device: torch.device,
) -> Generator[list[Batch], None, None]:
    """The micro-batch of every unit, in order. In evaluation, pictures of different sizes come as several batches.

    While one micro-batch is in use, `num_threads` threads decode `prefetch` more.
    """
    graph = DaliGraph(
        recipe,
        max_batch=max_batch,
        num_threads=num_threads,
        device=device,
        depth=prefetch,
        places=_places_by_itself(device),
    )
    return _batches(graph, fetcher, units, recipe, prefetch)


def _places_by_itself(device: torch.device) -> bool:
    """Whether DALI also does geometry and blur: on a GPU, so that all data stays there. On the CPU torch is faster."""
    return device.type == "cuda"


def _batches(
    graph: "DaliGraph", fetcher: Fetcher[Unit], units: Iterable[Unit], recipe: Recipe, prefetch: int
) -> Generator[list[Batch], None, None]:
    pool = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="read")
    try:
        source = read_ahead(fetcher, units, pool, ahead=_READ_AHEAD)
        running: deque[list[Fetched]] = deque()
        _start(graph, source, running, prefetch)
        while running:
            images, masks, fetched = _decoded(graph, fetcher, running.popleft(), recipe)
            _start(graph, source, running, prefetch)
            yield [finish(placed, recipe, graph.device) for placed in group_by_size(images, masks, fetched)]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start(graph: "DaliGraph", source: Iterator[list[Fetched]], running: deque[list[Fetched]], prefetch: int) -> None:
    while len(running) < prefetch and (fetched := next(source, None)) is not None:
        graph.start(drawn_samples(fetched))
        running.append(fetched)


def _decoded(
    graph: "DaliGraph", fetcher: Fetcher[Unit], fetched: list[Fetched], recipe: Recipe
) -> tuple[list[Tensor], list[Tensor], list[Fetched]]:
    """The graph's output for the batch that was started first, without the samples that cannot be decoded.

    The reference decoder tries the samples one by one, so that both loaders agree on which samples are bad.
    """
    try:
        return *graph.take(drawn_samples(fetched)), fetched
    except _DecodeError as error:
        first_error = error
    while (usable := reject_undecodable(fetcher, fetched)) != fetched:
        fetched = usable  # replacements may be bad as well
    samples = drawn_samples(fetched)
    try:
        return *graph.run_alone(samples), fetched
    except _DecodeError:
        keys = ", ".join(sample.encoded.key for sample in samples)
        _log.warning("DALI cannot decode what PIL can, one of %s; decoded by PIL (%s)", keys, first_error)
    return *place(decode_reference(samples, recipe), samples, recipe), fetched


class DaliGraph:
    """A DALI pipeline that runs up to `depth` batches at a time.

    If a batch cannot be decoded, only that batch fails; later ones are not affected.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        max_batch: int,
        num_threads: int,
        device: torch.device,
        depth: int,
        places: bool,
    ) -> None:
        self.device = device
        self._recipe, self._max_batch, self._num_threads, self._places = recipe, max_batch, num_threads, places
        # Arrays need no decoding, so DALI gets them only if it also places them.
        self._feeds_images = places or recipe.array is None
        self._feeds_regions = self._feeds_images or not recipe.target.layered
        device_id = None
        if device.type == "cuda":
            device_id = torch.cuda.current_device() if device.index is None else device.index
        self._pipeline = Pipeline(
            batch_size=max_batch, num_threads=num_threads, device_id=device_id, prefetch_queue_depth=depth
        )
        with self._pipeline:
            self._pipeline.set_outputs(*_define(recipe, places=places, on_gpu=device.type == "cuda"))
        self._pipeline.build()
        # The first run of a pipeline starts `depth` batches at once. Small stand-ins take that place, so that every
        # later run starts only its own batch.
        for _ in range(depth):
            self._feed([_stand_in(recipe.array, recipe.target)])
        self._pipeline.schedule_run()
        for _ in range(depth):
            self._pipeline.outputs()

    def start(self, samples: Sequence[DrawnSample]) -> None:
        """Begin to decode a batch in the background. An empty batch is skipped."""
        if samples:
            self._feed(samples)
            self._pipeline.schedule_run()

    def take(self, samples: Sequence[DrawnSample]) -> tuple[list[Tensor], list[Tensor]]:
        """Wait for the batch that was started first, and return its images and masks for `group_by_size`.

        samples: the samples of that batch.
        """
        if not samples:
            return [], []
        # The outputs are bound to the stream that uses them, so their memory is not reused too early.
        stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        try:
            masks, *others = self._pipeline.outputs(stream)
        except RuntimeError as error:
            if ".decoders." not in str(error):  # the message names the operator that failed
                raise
            raise _DecodeError(str(error)) from error
        images = others.pop(0) if self._feeds_images else None
        targets = [from_dlpack(masks[i])[..., 0] for i in range(len(samples))]
        if others:
            _check([np.asarray(others[0][i]) for i in range(len(samples))], samples)
        elif not self._places:
            _check([target.numpy() for target in targets], samples)
            if self._recipe.target.layered:
                targets = [_region(layers, sample) for layers, sample in zip(targets, samples, strict=True)]
        if images is None:
            regions = (array_region(sample, self._recipe).astype(np.float32) for sample in samples)
            return place(zip(regions, (m.numpy() for m in targets), strict=True), samples, self._recipe)
        images_hwc = [from_dlpack(images[i]) for i in range(len(samples))]
        if not self._places:
            parts = ((i.numpy(), m.numpy()) for i, m in zip(images_hwc, targets, strict=True))
            return place(parts, samples, self._recipe)
        return [image_hwc.permute(2, 0, 1) for image_hwc in images_hwc], targets

    def run_alone(self, samples: Sequence[DrawnSample]) -> tuple[list[Tensor], list[Tensor]]:
        """Decodes a batch at once through a graph of its own, ahead of the running batches."""
        graph = DaliGraph(
            self._recipe,
            max_batch=self._max_batch,
            num_threads=self._num_threads,
            device=self.device,
            depth=1,
            places=self._places,
        )
        graph.start(samples)
        return graph.take(samples)

    def _feed(self, samples: Sequence[DrawnSample]) -> None:
        transforms = [sample.transform for sample in samples]
        feed = self._pipeline.feed_input
        if self._recipe.array and self._places:
            feed("image", [array_region(sample, self._recipe) for sample in samples])
        elif self._feeds_images:
            feed("image", [np.frombuffer(sample.encoded.image, np.uint8) for sample in samples])
        feed("target", [np.frombuffer(sample.encoded.target, np.uint8) for sample in samples])
        if self._feeds_regions:
            feed("roi_start", np.array([t.roi[:2] for t in transforms], np.int32))
            feed("roi_shape", np.array([t.roi[2:] for t in transforms], np.int32))
        if not self._places:
            return
        if self._recipe.target.layered:
            feed("layers_shape", np.array([_layers_shape(sample.encoded) for sample in samples], np.int32))
        if self._recipe.resizes:
            feed("size", np.array([t.resized for t in transforms], np.float32))
        if self._recipe.blurs:
            feed("sigma", np.array([t.blur_sigma or 1.0 for t in transforms], np.float32))
            # A window of one pixel does not change a picture.
            feed("window", np.array([2 * math.ceil(3 * t.blur_sigma) + 1 for t in transforms], np.int32))
        if self._recipe.rotates:
            feed("image_warp", np.array([t.image_warp for t in transforms], np.float32).reshape(-1, 2, 3))
            feed("mask_warp", np.array([t.warp for t in transforms], np.float32).reshape(-1, 2, 3))
        elif self._recipe.training:
            feed("place_y", np.array([_relative_place(t, 0) for t in transforms], np.float32))
            feed("place_x", np.array([_relative_place(t, 1) for t in transforms], np.float32))
            feed("flip", np.array([t.flip for t in transforms], np.int32))


def _check(targets: Sequence[Ids], samples: Sequence[DrawnSample]) -> None:
    """Raises _DecodeError for a target that the reference decoder would refuse."""
    for ids, sample in zip(targets, samples, strict=True):
        try:
            sample.encoded.kind.check(ids, sample.encoded)
        except UndecodableError as error:
            raise _DecodeError(f"{sample.encoded.key}: {error}") from error


def _region(layers: Tensor, sample: DrawnSample) -> Tensor:
    """The region (L, h, w) of layers (L * H, W), without a copy; uint16 ids become int16."""
    y, x, h, w = sample.transform.roi
    _, height, width, _ = _layers_shape(sample.encoded)
    if layers.dtype == torch.uint16:
        layers = layers.view(torch.int16)
    return layers.view(-1, height, width)[:, y : y + h, x : x + w]


def _layers_shape(encoded: EncodedSample) -> tuple[int, int, int, int]:
    """(L, H, W, 1) of the PNG that holds L layers one below the other."""
    return read_header(encoded.target).height // encoded.height, encoded.height, encoded.width, 1


def _relative_place(t: SampleTransform, axis: int) -> float:
    """Position of the canvas around the smaller picture as DALI wants it: from 0 (at its end) to 1 (at its start)."""
    return t.offset[axis] / max(1, t.canvas[axis] - t.resized[axis])


def _define(recipe: Recipe, *, places: bool, on_gpu: bool) -> tuple[DataNode, ...]:
    """The graph, with only the operators that the recipe needs. Outputs a mask (H, W, 1) and an image (H, W, 3).

    Arrays need no decoder: they are an output, (H, W, C) float32, only if DALI places them. Layers come as they are
    decoded, (L * H, W, 1), of object ids uint16, of labels uint8. If DALI places them, they are (L, H, W, 1) int16 or
    uint8, and a third output holds the largest object id, on the CPU.
    """
    start, shape = _input("roi_start", DALIDataType.INT32, 1), _input("roi_shape", DALIDataType.INT32, 1)
    # DALI decodes PNGs on the CPU, even with a GPU. Masks are small, and cheapest to copy as uint8.
    target = _input("target", DALIDataType.UINT8, 1)
    kind = recipe.target
    mask = _define_layers(target, kind) if kind.layered else _define_mask(target, start, shape)
    largest_id = (fn.reductions.max(mask),) if kind.bits == 16 and places else ()
    if kind.layered and places:
        mask = _define_region(mask, start, shape, kind)
    if recipe.array and not places:
        return mask, *largest_id
    image = _define_array(recipe.array, on_gpu) if recipe.array else _define_picture(start, shape, on_gpu)
    if places:
        image, mask = _define_placing(image, mask, recipe, "gpu" if on_gpu else "cpu")
    return mask.gpu() if on_gpu else mask, image, *largest_id


def _define_picture(start: DataNode, shape: DataNode, on_gpu: bool) -> DataNode:
    """The region of a JPEG or PNG: (h, w, 3) uint8 RGB."""
    return fn.decoders.image_slice(
        _input("image", DALIDataType.UINT8, 1),
        start,
        shape,
        axes=[0, 1],
        device="mixed" if on_gpu else "cpu",
        jpeg_fancy_upsampling=True,
        adjust_orientation=False,
    )


def _define_array(array: ArrayLayout, on_gpu: bool) -> DataNode:
    """The region of an array: (h, w, C) float32. It is copied to the GPU in its packed type."""
    dtype = DALIDataType.UINT16 if array.dtype == "uint16" else DALIDataType.UINT8
    values = fn.external_source(name="image", dtype=dtype, ndim=3, layout="HWC")
    return fn.cast(values.gpu() if on_gpu else values, dtype=DALIDataType.FLOAT)


def _define_mask(target: DataNode, start: DataNode, shape: DataNode) -> DataNode:
    """The region of a mask of class ids: (h, w, 1) uint8."""
    return fn.decoders.image_slice(
        target, start, shape, axes=[0, 1], output_type=DALIImageType.GRAY, adjust_orientation=False
    )


def _define_layers(target: DataNode, kind: TargetKind) -> DataNode:
    """Layers one below the other: (L * H, W, 1), of object ids uint16, of labels uint8."""
    # By default the decoder cuts uint16 to 8 bits, and for int16 it halves the values.
    dtype = DALIDataType.UINT16 if kind.bits == 16 else DALIDataType.UINT8
    return fn.decoders.image(target, output_type=DALIImageType.GRAY, dtype=dtype, adjust_orientation=False)


def _define_region(layers: DataNode, start: DataNode, shape: DataNode, kind: TargetKind) -> DataNode:
    """The region of layers: (L, h, w, 1) int16 or uint8. For DALI they are the frames of a video."""
    if kind.bits == 16:
        layers = fn.cast(layers, dtype=DALIDataType.INT16)  # resize and warp do not take uint16
    layers = fn.reshape(layers, shape=_input("layers_shape", DALIDataType.INT32, 1), layout="FHWC")
    return fn.slice(layers, start, shape, axes=[1, 2])


def _define_placing(image: DataNode, mask: DataNode, recipe: Recipe, device: str) -> tuple[DataNode, DataNode]:
    if recipe.resizes:
        size = _input("size", DALIDataType.FLOAT, 1)
        image = fn.resize(image, size=size, interp_type=DALIInterpType.INTERP_LINEAR, antialias=True)
    if recipe.blurs:
        sigma, window = _input("sigma", DALIDataType.FLOAT, 0), _input("window", DALIDataType.INT32, 0)
        image = fn.gaussian_blur(image, sigma=sigma, window_size=window)
    if not recipe.training:
        return image, mask
    if recipe.rotates:
        return _warp(image, mask, recipe, device)
    if recipe.resizes:
        mask = fn.resize(mask, size=size, interp_type=DALIInterpType.INTERP_NN)
    return _place(image, mask, recipe)


def _warp(image: DataNode, mask: DataNode, recipe: Recipe, device: str) -> tuple[DataNode, DataNode]:
    # The warp fills all channels with one number, so the padding colour is shifted to 0 and back.
    image = fn.crop_mirror_normalize(image, mean=list(recipe.norm.padding), output_layout="HWC")
    image = fn.warp_affine(
        image, matrix=_input("image_warp", DALIDataType.FLOAT, 2), size=recipe.canvas, fill_value=0.0
    )
    mask = fn.warp_affine(
        mask,
        matrix=_input("mask_warp", DALIDataType.FLOAT, 2),
        size=recipe.canvas,
        fill_value=float(recipe.target.border),
        interp_type=DALIInterpType.INTERP_NN,
    )
    num_channels = len(recipe.norm.padding)
    padding = Constant(recipe.norm.padding, dtype=DALIDataType.FLOAT, shape=(1, 1, num_channels), device=device)
    return image + padding if recipe.array else fn.cast(image + padding, dtype=DALIDataType.UINT8), mask


def _place(image: DataNode, mask: DataNode, recipe: Recipe) -> tuple[DataNode, DataNode]:
    y, x = _input("place_y", DALIDataType.FLOAT, 0), _input("place_x", DALIDataType.FLOAT, 0)
    flip = _input("flip", DALIDataType.INT32, 0)
    image = fn.crop_mirror_normalize(
        image,
        crop=recipe.canvas,
        crop_pos_y=y,
        crop_pos_x=x,
        mirror=flip,
        out_of_bounds_policy="pad",
        fill_values=list(recipe.norm.padding),
        dtype=DALIDataType.FLOAT if recipe.array else DALIDataType.UINT8,
        output_layout="HWC",
    )
    # crop_mirror_normalize cannot output int16.
    mask = fn.crop(
        mask,
        crop=recipe.canvas,
        crop_pos_y=y,
        crop_pos_x=x,
        out_of_bounds_policy="pad",
        fill_values=float(recipe.target.border),
    )
    return image, fn.flip(mask, horizontal=flip)


def _input(name: str, dtype: DALIDataType, ndim: int) -> DataNode:
    return fn.external_source(name=name, dtype=dtype, ndim=ndim)


def _stand_in(array: ArrayLayout | None, kind: TargetKind) -> DrawnSample:
    """A sample of one pixel, with a target of the given kind."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    png = buffer.getvalue()
    transform = SampleTransform(roi=(0, 0, 1, 1), resized=(1, 1), canvas=(1, 1), warp=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    image = encode_npy(np.zeros((1, 1, array.channels), array.dtype)) if array else png
    encoded = EncodedSample(key="", image=image, target=png, height=1, width=1, kind=kind, array=array)
    return DrawnSample(encoded=encoded, transform=transform)
