"""Where a request ends: h11 without what two servers may read differently."""

from __future__ import annotations

import h11


class Strict(h11.Connection):
    """h11 that refuses what a proxy in front may read otherwise than we do.

    Else one request to the proxy could be two to us.

    A chunk that does not end in CRLF is refused by h11 itself, from 0.16 on (CVE-2025-43859).

    Attributes:
        wrong: why the last event was refused.
    """

    wrong = ""

    def next_event(self):
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                _check_framing(event)
        except h11.RemoteProtocolError as error:
            self.wrong = " ".join(str(error).split())[:200]
            raise
        except ValueError:  # int() of a Content-Length of 5,000 digits
            self.wrong = "bad Content-Length"
            raise h11.RemoteProtocolError(self.wrong) from None
        if isinstance(event, h11.ConnectionClosed):
            return h11.NEED_DATA  # uvicorn would ask for the next one for ever
        return event


def _check_framing(request: h11.Request) -> None:
    names = [name for name, _ in request.headers]
    if b"transfer-encoding" not in names:
        return
    if b"content-length" in names:
        raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
    if request.http_version < b"1.1":
        raise h11.RemoteProtocolError("Transfer-Encoding in HTTP/1.0")
