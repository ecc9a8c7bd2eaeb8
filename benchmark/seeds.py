"""Seeds are derived from what a draw may depend on, never passed around."""

import hashlib


def derive_seed(base: int, purpose: str, *parts: int | str) -> int:
    """A 63-bit seed from SHA-256 over ``base``, ``purpose`` and ``parts``.

    Two draws share a seed exactly when these agree: what is left out (the method's name, say) is what the
    draw must not depend on.
    """
    text = "\x1f".join(str(part) for part in (base, purpose, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
