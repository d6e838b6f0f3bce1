"""Checks the headers of a tar while its bytes are read.

Training reads members at the offsets in the sidecar and never looks at a header. Whoever unpacks the tar does, so the
headers must agree with the sidecar: no other name, no path out of the folder, no link, no device. A packed tar holds
exactly what its sidecar lists. An indexed tar of another tool may hold more files, folders, and headers in the formats
of POSIX (pax) and GNU.
"""

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dist_seg.data.shards.names import shard_key
from dist_seg.data.shards.sidecar import Sidecar

_BLOCK = tarfile.BLOCKSIZE
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "stored with holes",
}
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
"""Headers with more about the next member; global ones are about all following members."""
_MOST_EXTENDED = 1 << 20
"""Most bytes of such headers for one member. They are held in memory, and no honest tar needs more."""
_NOT_FOR_ALL = ("path", "linkpath", "size")
# The webdataset library cuts a member's name in this way: at the first dot after the last slash.
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)


class TarWalk:
    """Takes a tar's bytes in order and reports every member. Holds the headers of one member at a time.

    on_member: called with the member and the offset of its first byte. It may return a problem, which ends the walk.
    extended: understand headers of several blocks (pax, GNU); otherwise they count as members of an unknown type.
    """

    def __init__(self, on_member: Callable[[tarfile.TarInfo, int], str | None], *, extended: bool = False) -> None:
        self._on_member, self._extended = on_member, extended
        self._next = 0
        self._held, self._wanted = bytearray(), _BLOCK
        self.ended = False
        """Whether the tar's end mark was reached, or a problem was found."""
        self.problem: str | None = None

    def feed(self, offset: int, chunk: bytes) -> None:
        """Take the bytes from `offset` on, which follow the previous ones."""
        while not self.ended and self._next + len(self._held) < offset + len(chunk):
            begin = self._next + len(self._held) - offset
            self._held += chunk[begin : begin + self._wanted - len(self._held)]
            if len(self._held) < self._wanted:
                return
            self._look()

    def _look(self) -> None:
        """Look at the last header that is held."""
        header, at = bytes(self._held[-_BLOCK:]), self._next + len(self._held) - _BLOCK
        if not any(header):
            self._stop(f"ends in a header at byte {at}" if len(self._held) > _BLOCK else None)
            return
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            self._stop(f"has no tar header at byte {at} ({error})")
            return
        if self._extended and member.type in _EXTENSIONS:
            self._wanted += _padded(member.size) + _BLOCK
            if self._wanted > _MOST_EXTENDED:
                self._stop(f"has headers of more than {_MOST_EXTENDED} bytes at byte {self._next}")
            return
        begin = self._next + len(self._held)
        try:
            whole = member if len(self._held) == _BLOCK else _extended_member(bytes(self._held))
        except (tarfile.TarError, ValueError, IndexError, RecursionError) as error:
            self._stop(f"has a header at byte {self._next} that cannot be read ({error})")
            return
        problem = self._on_member(whole, begin)
        if problem is not None:
            self._stop(problem)
            return
        self._next = begin + (_padded(whole.size) if whole.isreg() else 0)
        self._held.clear()
        self._wanted = _BLOCK

    @property
    def position(self) -> int:
        """Offset of the next header, or of the last one."""
        return self._next

    def _stop(self, problem: str | None) -> None:
        """End the walk: after an invalid member, the offsets that follow are unknown."""
        self.problem, self.ended = problem, True


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _extended_member(headers: bytes) -> tarfile.TarInfo:
    """The member that these headers describe."""
    with tarfile.open(fileobj=io.BytesIO(headers), mode="r:", encoding="utf-8") as tar:
        member = tar.next()
        if member is None or member.size < 0:
            raise tarfile.ReadError("no member after it, or one with a negative size")
        for name in tar.pax_headers:
            if name in _NOT_FOR_ALL or name.startswith("GNU.sparse"):
                raise tarfile.ReadError(f"a global header that sets {name}")
        return member


def cut_name(name: str) -> tuple[str, str] | None:
    """A member's key, as a sidecar has it, and its suffix; None for a name without suffix."""
    match = _NAME.fullmatch(name.removeprefix("./"))
    return (shard_key(match.group(1)), match.group(2)) if match else None


class PassingHeaders:
    """Takes a shard's bytes in order, and compares its headers with the sidecar."""

    def __init__(self, sidecar: Sidecar, *, indexed: bool = False) -> None:
        self._indexed = indexed
        listed = _listed(sidecar)
        self._listed = iter(sorted(listed, key=lambda member: member.begin)) if indexed else listed
        self._next = next(self._listed, None)
        self._walk = TarWalk(self._check, extended=indexed)
        self.problems: list[str] = []
        """The first members that are not what the sidecar lists."""

    def feed(self, offset: int, chunk: bytes) -> None:
        """Take the bytes from `offset` on, which follow the previous ones."""
        if self._walk.ended:
            return
        self._walk.feed(offset, chunk)
        if self._walk.problem is not None:
            self.problems.append(self._walk.problem)
        elif self._walk.ended and self._next is not None:
            self.problems.append(f"ends before {self._next.name}, which its index lists")

    def _check(self, member: tarfile.TarInfo, begin: int) -> str | None:
        if fault := member_fault(member, folders=self._indexed):
            return f"has a member {member.name!r} {fault}"
        listed = self._next
        if self._indexed and (listed is None or begin < listed.begin):
            return None
        name = member.name
        if self._indexed and (cut := cut_name(name)):
            name = ".".join(cut)
        if listed is None or (name, begin, member.size) != (listed.name, listed.begin, listed.length):
            has = (
                f"its index has {listed.name} of {listed.length} bytes there"
                if listed
                else "its index does not list it"
            )
            return f"has a member {member.name!r} of {member.size} bytes at byte {begin}; {has}"
        self._next = next(self._listed, None)
        return None


class _Listed(NamedTuple):
    name: str
    begin: int
    length: int


def _listed(sidecar: Sidecar) -> Iterator[_Listed]:
    for i in range(sidecar.num_samples):
        for role in sidecar.roles:
            member = sidecar.member(i, role)
            yield _Listed(f"{sidecar.key(i)}.{member.suffix}", member.offset, member.length)


def member_fault(member: tarfile.TarInfo, *, folders: bool) -> str | None:
    """Why it is not safe to unpack the member; None if it is. folders: allow folders."""
    if member.name.startswith(("/", "\\")) or ".." in member.name.replace("\\", "/").split("/"):
        return "that leads out of the folder it is unpacked in"
    if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse():
        return None
    if folders and member.isdir():
        return None
    return f"that is {_KINDS.get(member.type, f'of the type {member.type!r}')}, not a file"
