"""Networks."""

from dist_seg.models.build import build_instance_model, build_model

__all__ = ["build_instance_model", "build_model"]
