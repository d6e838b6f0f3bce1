"""Counter-based random numbers: each is a pure function of a key, so no state has to be saved, ordered or shared.

A key is a sequence of integers and strings, such as ("augment", seed, epoch, sample key).
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
# Multipliers of the finaliser of MurmurHash3 (Appleby), a well-tested integer mixer.
_MIX_A = np.uint64(0xFF51AFD7ED558CCD)
_MIX_B = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)


def _digest(key: tuple[int | str, ...], size: int) -> bytes:
    # The type is part of the text, so that 1 and "1" differ; the length separates ("ab", "c") from ("a", "bc").
    text = "".join(f"{type(part).__name__[0]}{len(str(part))}:{part}" for part in key)
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def seed_of(*key: int | str) -> int:
    """A non-negative 63-bit integer derived from the key."""
    return int.from_bytes(_digest(key, 8), "little") >> 1


def generator(*key: int | str) -> np.random.Generator:
    """A generator that always yields the same numbers for the same key (Philox, Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(key, 16), "little")))


def keyed_permutation(
    positions: NDArray[np.int64], sizes: NDArray[np.int64] | int, *key: int | str, tweaks: NDArray[np.int64] | int = 0
) -> NDArray[np.int64]:
    """The images of positions under random permutations, in O(1) memory per position.

    `key` and tweaks[i] choose the permutation of [0, sizes[i]) for position i; the other positions do not matter. A
    permutation is a Feistel network over an even number of bits, repeated until the result is in range (cycle walking,
    Black and Rogaway 2002).

    Raises IndexError for a position outside its range.
    """
    limits = np.broadcast_to(np.asarray(sizes, dtype=np.int64), positions.shape)
    if np.any((positions < 0) | (positions >= limits)):
        raise IndexError("a position is outside the permuted range")
    halves = _half_bits(limits)
    masks = (np.uint64(1) << halves) - np.uint64(1)
    round_keys = np.frombuffer(_digest(("feistel", *key), 8 * _ROUNDS), dtype=np.uint64)
    salts = _mix(np.broadcast_to(np.asarray(tweaks), positions.shape).astype(np.uint64) * _MIX_B + np.uint64(1))
    values = positions.astype(np.uint64)
    outside = np.arange(values.size)
    while outside.size:
        half, mask, salt = halves[outside], masks[outside], salts[outside]
        left, right = values[outside] >> half, values[outside] & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right + (salt ^ round_key)) & mask)
        walked = (left << half) | right
        values[outside] = walked
        outside = outside[walked >= limits[outside].astype(np.uint64)]
    return values.astype(np.int64)


def _half_bits(sizes: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Half the bits, rounded up, of the largest number below each size; by size, so that none affects another.

    Exact for sizes up to 2^53.
    """
    _, bits = np.frexp((sizes - 1).astype(np.float64))
    halves: NDArray[np.uint64] = np.maximum(1, (bits + 1) // 2).astype(np.uint64)
    return halves


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> _SHIFT)) * _MIX_A
    values = (values ^ (values >> _SHIFT)) * _MIX_B
    return values ^ (values >> _SHIFT)
