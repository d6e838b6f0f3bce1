"""dist-seg: training image segmentation at scale, from packed shards to an exact score."""

__version__ = "0.1.0"
