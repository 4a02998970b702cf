"""All randomness is a function of where it is used, so there is no generator state to keep."""

import hashlib


def seed_of(*place: int | str) -> int:
    """63 bits that depend on `place` alone, such as ("dropout", seed, step, micro-step).

    A keyed hash as a counter-based generator (Salmon et al. 2011): the randomness of any place is
    known without that of the places before it.
    """
    digest = hashlib.blake2b("/".join(map(str, place)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
