"""The headers of a shard's tar, compared with its index as the bytes pass by.

Training reads members where the index says, and never looks at a header. Whoever unpacks the tar does, so no header may
say anything else: another name, a path out of the folder, a link, a device, a member that the index does not list.
"""

import tarfile
from collections.abc import Iterator

from dist_seg.data.sidecar import Sidecar

_BLOCK = tarfile.BLOCKSIZE
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe",
}


class PassingHeaders:
    """Is fed a shard's bytes, in order; holds one header at a time."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._expected = _expected(sidecar)
        self._next = 0
        self._held = bytearray()
        self._ended = False
        self.problems: list[str] = []
        """Members that are not what the index lists, the first ones."""

    def feed(self, offset: int, chunk: bytes) -> None:
        """The bytes from `offset` on, which follow those before."""
        while not self._ended and self._next + len(self._held) < offset + len(chunk):
            begin = max(self._next - offset, 0)
            self._held += chunk[begin : begin + _BLOCK - len(self._held)]
            if len(self._held) < _BLOCK:
                return
            self._look(bytes(self._held))
            self._held.clear()

    def _look(self, header: bytes) -> None:
        place = self._next
        if not any(header):
            if (missing := next(self._expected, None)) is not None:
                self.problems.append(f"ends before {missing[0]}, which its index lists")
            self._ended = True
            return
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            self._stop(f"has no header of a tar at byte {place} ({error})")
            return
        name, begin, length = next(self._expected, ("", -1, -1))
        if fault := _fault(member):
            self._stop(f"has a member {member.name!r} {fault}")
        elif (member.name, place + _BLOCK, member.size) != (name, begin, length):
            listed = f"its index has {name} of {length} bytes there" if name else "its index does not list it"
            self._stop(f"has a member {member.name!r} of {member.size} bytes at byte {place + _BLOCK}; {listed}")
        self._next = place + _BLOCK + -(-member.size // _BLOCK) * _BLOCK

    def _stop(self, problem: str) -> None:
        """After what is no member of ours nothing that follows can be told for sure."""
        self.problems.append(problem)
        self._ended = True


def _expected(sidecar: Sidecar) -> Iterator[tuple[str, int, int]]:
    for i in range(sidecar.num_samples):
        for role in sidecar.roles:
            member = sidecar.member(i, role)
            yield f"{sidecar.key(i)}.{member.suffix}", member.offset, member.length


def _fault(member: tarfile.TarInfo) -> str | None:
    if member.name.startswith(("/", "\\")) or ".." in member.name.replace("\\", "/").split("/"):
        return "that leads out of the folder it is unpacked in"
    if not member.isreg():
        return f"that is {_KINDS.get(member.type, f'of the type {member.type!r}')}, no file"
    return None
