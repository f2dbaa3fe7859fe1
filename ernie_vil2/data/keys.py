"""Numbers that stand for texts, where arrays hold them or processes compare them."""

import hashlib


def key(text: str) -> int:
    """A 64-bit signed number for `text`, the same in every process."""
    # a path that is no UTF-8 has halves of characters
    encoded = text.encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "big", signed=True)
