"""Seeds are derived from everything that a draw may depend on, instead of being passed around."""

import hashlib


def derive_seed(base: int, purpose: str, *parts: int | str) -> int:
    """A 63-bit seed from SHA-256 over ``base``, ``purpose`` and ``parts``.

    Two draws share a seed exactly if these are equal; anything else, such as the method's name, does not
    affect the draw.
    """
    text = "\x1f".join(str(part) for part in (base, purpose, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
