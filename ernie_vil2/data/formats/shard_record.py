"""One record of a tar shard, by the place that the index gives it."""

from __future__ import annotations

from ernie_vil2.data.formats import tar
from ernie_vil2.data.formats.shard_scan import FAULTS
from ernie_vil2.data.records import BadRecord

_ANOTHER = "the shard is not the one that was indexed: start again"


class ShardRecord:
    """The members of a record.

    Args:
        shard: its name, for messages.
        read: the shard.
        start, end: where the record lies in it.
        fault: what the scan found wrong, one of FAULTS; None: nothing.

    Attributes:
        key: of the record.
        source: "shard:key".
        members: by extension.

    Raises:
        BadRecord: it is none. OSError: it cannot be read.
    """

    def __init__(self, shard: str, read: tar.Read, start: int, end: int, fault: int | None):
        self.key = ""
        self.members: dict[str, tar.Member] = {}
        self._shard, self._read = shard, read
        if fault is not None:
            self.key = _key_at(read, start)
            raise BadRecord(self.source, FAULTS[fault])
        at = start
        while at < end:
            try:
                member = tar.member(read, at)
            except tar.BadHeader:
                member = None
            if member is None:
                break
            self._add(member)
            at = member.end
        if at != end:
            self.key = self.key or f"byte {start}"
            raise BadRecord(self.source, _ANOTHER)

    @property
    def source(self) -> str:
        return f"{self._shard}:{self.key}"

    def _add(self, member: tar.Member) -> None:
        key, extension = member.split
        if not key:
            return
        if self.key not in ("", key):
            raise BadRecord(self.source, _ANOTHER)
        self.key = key
        if tar.leaves(member.name):
            raise BadRecord(self.source, f"the name {member.name} leaves the shard's folder")
        if member.kind != tar.FILE:
            raise BadRecord(self.source, f"{member.name} is no file but a {member.kind}")
        if extension in self.members:
            raise BadRecord(self.source, f"it has two members .{extension}")
        self.members[extension] = member

    def content(self, extension: str, limit: int) -> bytes:
        """The bytes of a member, at most `limit`."""
        member = self.members[extension]
        if member.size > limit:
            raise BadRecord(
                self.source, f"{member.name} has {member.size} bytes, at most {limit} are read"
            )
        try:
            content = self._read(member.content, member.size)
        except MemoryError:
            raise BadRecord(self.source, f"no memory for {member.size} bytes") from None
        if len(content) < member.size:
            raise BadRecord(self.source, _ANOTHER)
        return content


def _key_at(read: tar.Read, start: int) -> str:
    """The key of what begins at `start`, though it may be damaged."""
    try:
        member = tar.member(read, start)
        key = member.split[0] if member else ""
    except tar.BadHeader as error:
        key, _ = tar.split(error.name)
    return key or f"byte {start}"
