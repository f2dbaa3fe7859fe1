"""Where the records of a tar shard lie: what an index of it holds.

A record is the members of one key that stand together. Its place is that of its first header, up to
the first header of the next: one read gets it, and its headers say what is in it.
"""

from __future__ import annotations

from array import array

import numpy as np

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.data.formats import tar
from ernie_vil2.data.keys import key as number_of

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")  # of several the first counts
TEXTS = ("txt", "json")

# Why a record that the scan has found is none.
DAMAGED, CUT, REPEATED = 1, 2, 3
FAULTS = {
    DAMAGED: "no tar header where one must stand: it is damaged, or the size of a member is wrong",
    CUT: "a member reaches beyond the shard's end: the shard was cut off, or a size is wrong",
    REPEATED: "the key stood in this shard before: a record's members must stand together",
}


def scan(read: tar.Read, size: int) -> tuple[Numbers, Numbers]:
    """The records of a shard.

    Where a header is damaged or a member lies about its size, what is read next begins at the next
    header that is found behind the last one: the other records are lost by neither.

    Args:
        read: the shard.
        size: its bytes.

    Returns:
        Offsets, int64 [N + 1]: record n lies from offsets[n] to offsets[n + 1]. And what is known
        to be wrong, int64 [F, 2]: (record, one of FAULTS), by record, each at most once.
    """
    found = _Found(read)
    at = behind = 0  # where the next header should be, and from where it is looked for if it is not
    while True:
        try:
            member = tar.member(read, at)
        except tar.BadHeader as error:
            if error.is_header:
                found.damage(at, error)
                behind = at + tar.BLOCK
            else:  # it is content of the member before, and so may be what lies between
                found.damage(behind, error)
        else:
            hidden = found.hidden(member)
            if hidden is not None:
                at = hidden
                continue
            if member is None:
                return found.arrays(at)
            behind = member.content
            if member.content + member.size <= size:
                found.add(member)
                at = member.end
                continue
            found.cut(member)
        following = tar.next_header(read, behind)
        if following is None:
            return found.arrays(size)
        at = following


class _Found:
    """The records so far."""

    def __init__(self, read: tar.Read) -> None:
        self._read = read
        self._starts, self._keys = array("q"), array("q")
        self._faults: dict[int, int] = {}
        # of the last record:
        self._key: str | None = None
        self._members: list[tar.Member] = []

    def add(self, member: tar.Member) -> None:
        """A whole member: of the last record, the first of a new one, or of none."""
        key, _ = member.split
        if key:
            self._begin(key, member.start)
            self._members.append(member)

    def cut(self, member: tar.Member) -> None:
        """A member that says to end behind the shard's end."""
        key, _ = member.split
        self._begin(key or f"byte {member.start}", member.start)
        self._fault(CUT)

    def damage(self, at: int, error: tar.BadHeader) -> None:
        """No header stands at `at`."""
        key, _ = tar.split(error.name)
        # where content stands instead, the member before has said a wrong size
        if key or error.is_header or self._key is None:
            self._begin(key or f"byte {at}", at)
        self._fault(DAMAGED)

    def hidden(self, following: tar.Member | None) -> int | None:
        """Where the last record, if it ends here, hides a header in what it says is content.

        A size may be wrong in a way that leads to another header, past some that are skipped; the
        record then lacks something, and only such a one is looked at.
        """
        if following and following.split[0] in ("", self._key):
            return None
        members, self._members = self._members, []
        kinds = {member.split[1] for member in members}
        if not kinds.isdisjoint(IMAGES) and not kinds.isdisjoint(TEXTS):
            return None
        for number, member in enumerate(members, start=1):
            header = tar.next_header(self._read, member.content, member.end)
            if header is not None:
                self._fault(DAMAGED)
                self._members = members[number:]
                return header
        return None

    def _begin(self, key: str, start: int) -> None:
        """`key` is that of the last record, or of a new one that begins here."""
        if key != self._key:
            self._key, self._members = key, []
            self._starts.append(start)
            self._keys.append(number_of(key))

    def _fault(self, fault: int) -> None:
        """Something is wrong with the last record."""
        self._faults.setdefault(len(self._starts) - 1, fault)

    def arrays(self, end: int) -> tuple[Numbers, Numbers]:
        keys = np.array(self._keys, np.int64)
        first = np.unique(keys, return_index=True)[1]
        for record in np.setdiff1d(np.arange(len(keys)), first):
            self._faults.setdefault(int(record), REPEATED)
        offsets = np.array([*self._starts, end], np.int64)
        faults = np.array(sorted(self._faults.items()), np.int64).reshape(-1, 2)
        return offsets, faults
