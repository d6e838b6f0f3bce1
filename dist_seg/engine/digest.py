"""Fingerprints of batches and weights, for the audit."""

import hashlib
from collections import Counter
from collections.abc import Iterable

import torch

from dist_seg.distributed.collectives import gather_json, sum_over_ranks
from dist_seg.errors import RunFailedError


def batch_digest(lane_digests: dict[int, int], lanes: int) -> str:
    """The digest of a global batch from the digests of its lanes, the same at any number of ranks. A collective."""
    vector = torch.zeros(lanes, dtype=torch.int64)
    for lane, digest in lane_digests.items():
        vector[lane] = digest
    return hashlib.sha256(sum_over_ranks(vector).numpy().tobytes()).hexdigest()[:16]


def weights_digest(state: Iterable[tuple[str, torch.Tensor]]) -> str:
    """The digest of a model's state. state: names and whole tensors, in the model's order."""
    content = hashlib.blake2b(digest_size=8)
    for name, tensor in state:
        content.update(name.encode())
        content.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


class ReplicaMismatchError(RunFailedError):
    """Ranks that should hold the same weights do not."""


def agreed_digest(digest: str) -> str:
    """The digest, if all ranks have the same. A collective.

    Raises ReplicaMismatchError, which names the ranks that differ from the majority, if there is one.
    """
    by_rank = [str(entry) for entry in gather_json(digest)]
    if len(set(by_rank)) > 1:
        (most, count), (_, second) = Counter(by_rank).most_common(2)
        odd = [rank for rank, entry in enumerate(by_rank) if entry != most]
        which = f"ranks {odd} differ from the others'" if count > second else "the ranks differ from each other"
        raise ReplicaMismatchError(
            f"the weights of {which} ({by_rank}): memory or network corrupted them, or code changed them on some "
            "ranks only. The run is stopped before they reach a checkpoint"
        )
    return digest
