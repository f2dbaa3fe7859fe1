"""Who a server on the user's own machine answers to: itself, and no page of the web.

A page of any site may ask for addresses of this machine. The browser lets it read the answers only
if they come from the site's own name, but a site's name can be made to mean 127.0.0.1 (DNS
rebinding). So a server that asks for no key does not answer to such a name.
"""

from __future__ import annotations

import ipaddress

from fastapi import Request

from ernie_vil2.serving.web.errors import ApiError


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine, whoever asks for it."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def check_host(request: Request) -> None:
    """Raises ApiError 421 unless the client asks for this machine by a name of its own."""
    asked = request.headers.get("host", "")
    if not is_loopback(_without_port(asked)):
        message = (
            f"Host {asked[:80]!r}: without a key this server answers to localhost alone, so that "
            "no page of the web can read your pictures; set a key, or let a proxy send localhost"
        )
        raise ApiError(421, "wrong_host", message)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
