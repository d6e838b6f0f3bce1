"""Summarises `result.json` in one line."""

from collections.abc import Mapping, Sequence
from typing import cast


def summary_line(document: Mapping[str, object]) -> str:
    """The result in one line."""
    shown = [_with_interval("mIoU", document, "miou")]
    if "mask_ap" in document:
        shown = [_with_interval("mask AP", document, "mask_ap"), f"box AP {score_text(document['box_ap'])}", *shown]
    else:
        shown.append(f"pixel accuracy {score_text(document['pixel_accuracy'])}")
    return f"{', '.join(shown)}, {document['images']} images"


def _with_interval(label: str, document: Mapping[str, object], name: str) -> str:
    low, high = cast(Sequence[object], document[f"{name}_interval"])
    return f"{label} {score_text(document[name])} (95% interval {score_text(low)} to {score_text(high)})"


def score_text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-"
