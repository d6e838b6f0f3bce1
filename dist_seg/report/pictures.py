"""The pictures of a report: an image, its truth, the prediction and where they differ, as data URIs."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.masks.drawing import colorize
from dist_seg.masks.palette import Rgb
from dist_seg.tasks.task import Drawing, PixelErrors

_LONGER_SIDE = 640
_WRONG: Rgb = (226, 60, 50)
_IGNORED: Rgb = (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class ReportPicture:
    """One scored image."""

    kind: Literal["worst", "best"]
    key: str
    score: float
    """mIoU in [0, 1]."""
    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    drawing: Drawing


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One of the four views of a picture."""

    title: str
    uri: str
    width: int
    height: int


def panels(picture: ReportPicture, palette: Sequence[Rgb], ignore_index: int) -> list[Panel]:
    """Image, truth, prediction and errors, side by side in this order.

    Raises ValueError if the image, its maps of class ids and its errors differ in size.
    """
    drawing = picture.drawing
    views = (("truth", drawing.truth), ("prediction", drawing.prediction))
    maps = [view for _, view in views if not isinstance(view, Image.Image)]
    sizes = {array.shape[:2] for array in (picture.image, drawing.errors.wrong, drawing.errors.ignored, *maps)}
    if len(sizes) != 1:
        raise ValueError(f"{picture.key}: image, truth and prediction differ in size: {sorted(sizes)}")
    return [
        _panel("image", Image.fromarray(picture.image), "JPEG"),
        *(
            _panel(title, view, "JPEG")
            if isinstance(view, Image.Image)
            else _panel(title, Image.fromarray(colorize(view, palette, ignore_index)), "PNG")
            for title, view in views
        ),
        _panel("errors", Image.fromarray(error_map(picture.image, drawing.errors)), "JPEG"),
    ]


def error_map(image_HWC: NDArray[np.uint8], errors: PixelErrors) -> NDArray[np.uint8]:
    """The image in pale grey, wrong pixels in red, ignored ones white: (H, W, 3) uint8."""
    grey = image_HWC.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    shown = np.repeat((110 + 0.4 * grey)[:, :, None], 3, axis=2)
    shown[errors.wrong] = 0.35 * shown[errors.wrong] + 0.65 * np.array(_WRONG, np.float32)
    shown[errors.ignored] = _IGNORED
    return np.rint(shown).clip(0, 255).astype(np.uint8)


def _panel(title: str, picture: Image.Image, form: Literal["JPEG", "PNG"]) -> Panel:
    image = picture.copy()
    # Colours of classes must not mix: masks are shrunk by picking pixels.
    how = Image.Resampling.NEAREST if form == "PNG" else Image.Resampling.LANCZOS
    image.thumbnail((_LONGER_SIDE, _LONGER_SIDE), how)
    data = io.BytesIO()
    if form == "PNG":
        image.save(data, "PNG", optimize=True)
    else:
        image.save(data, "JPEG", quality=85)
    uri = f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
    return Panel(title=title, uri=uri, width=image.width, height=image.height)
