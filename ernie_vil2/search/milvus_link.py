"""The connection to a Milvus server: its address, calls that outlive a restart, plain errors."""

from __future__ import annotations

import logging
import re
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, TypeVar

from ernie_vil2.data.packages import needed
from ernie_vil2.errors import UserError

PATIENCE = 60  # seconds that a call is tried again for: a server that was restarted loads for 20 s
_CONNECT = 10  # seconds for the first connection
_CALL = 10  # seconds of one try; pymilvus itself tries again within it where nobody answers
_PAUSE, _LONGEST_PAUSE = 0.25, 4.0  # seconds between tries, doubled
_EXPECTED = "http://host:19530/name"
# Codes of Milvus 2.3 that pass: the service is not ready or not reachable, the collection is not
# loaded yet or not fully, a node, a channel or a segment is moving.
_PASSING = {1, 2, 3, 4, 8, 101, 103, 200, 201, 202, 203, 500, 501, 502, 503, 600, 601, 901, 902}
_WORDS = ("not loaded", "no available", "shard leader", "not ready", "unavailable", "not healthy")
_REFUSALS = {"UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT", "UNIMPLEMENTED"}
T = TypeVar("T")
log = logging.getLogger("ernie_vil2")


class Link:
    """A connection to the server of a collection's address.

    Attributes:
        uri: the address without a password.
        name: of the collection.
        alias: of the connection, in pymilvus.
    """

    def __init__(self, uri: str):
        parts = urllib.parse.urlsplit(uri)
        self.name = parts.path.strip("/")
        self.uri = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        if parts.query or parts.fragment or not parts.hostname or not self.name:
            raise UserError(f"{self.uri} is no address of a collection: expected {_EXPECTED}")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", self.name):
            raise UserError(
                f"{self.uri}: {self.name!r} cannot be the name of a collection in Milvus: expected "
                "letters, digits and _, no digit first"
            )
        self.api: Any = needed("pymilvus", f"the collection {self.uri}", "milvus")
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # errors are ours to tell
        rpc = needed("grpc", "pymilvus", "milvus").RpcError  # as pymilvus lets pass at a deadline
        self._faults = needed("pymilvus.exceptions", "pymilvus", "milvus")
        self._errors = (self._faults.MilvusException, rpc)
        self.alias = f"{self.uri}#{id(self)}"
        address = f"{parts.scheme}://{parts.hostname}:{parts.port or 19530}"
        login = {"user": parts.username, "password": parts.password} if parts.username else {}
        self.call(
            lambda: self.api.connections.connect(
                self.alias, uri=address, timeout=_CONNECT, secure=parts.scheme == "https", **login
            ),
            patience=_CONNECT,
        )

    def call(self, action: Callable[[], T], patience: float = PATIENCE) -> T:
        """What `action` gives, tried again while the server is away or not ready.

        So it has to be one that may be done twice.

        Raises:
            UserError: it stays so, or the server refuses.
        """
        faults = self._faults
        end, pause, told = time.monotonic() + patience, _PAUSE, False
        while True:
            try:
                return action()
            except self._errors as error:
                refused = (faults.ParamError, faults.SchemaNotReadyException)
                if isinstance(error, refused) or not _passes(error):
                    raise UserError(f"{self.uri}: Milvus refuses: {_line(error)}") from error
                if time.monotonic() + pause > end:
                    raise UserError(
                        f"{self.uri} does not answer ({_line(error)}): start Milvus there, or name "
                        "another address with --db"
                    ) from error
                if not told and patience > _CONNECT:
                    log.warning("%s does not answer; trying again for %d s", self.uri, patience)
                told = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def ask(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """`call` of a function of pymilvus that takes a timeout."""
        return self.call(lambda: function(*arguments, timeout=_CALL, **named))

    def close(self) -> None:
        self.api.connections.disconnect(self.alias)


def _passes(error: Any) -> bool:
    """Whether it may go by itself: it is gRPC's, but for a refusal, or one of Milvus's that do."""
    code = error.code
    if callable(code):  # gRPC's own, whose code pymilvus may have taken over as it is
        return code().name not in _REFUSALS
    if not isinstance(code, int):
        return getattr(code, "name", "") not in _REFUSALS
    return code in _PASSING or any(word in str(error.message) for word in _WORDS)


def _line(error: Any) -> str:
    """What the server says, without what gRPC adds."""
    said = error.message if hasattr(error, "message") else error.details()
    return " ".join(str(said).split()).rpartition("message=")[2][:200]
