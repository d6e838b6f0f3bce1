"""How far a run has come."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Progress:
    """The progress of a run, apart from its weights; in every checkpoint."""

    step: int = 0
    bad_samples: dict[str, str] = field(default_factory=dict)
    bad_shards: dict[str, str] = field(default_factory=dict)
    nonfinite_in_a_row: int = 0
    origin: str = ""
    """See `CheckpointMeta.origin`."""
