"""All randomness is a function of where it is used, so there is no generator state to keep."""

import hashlib
from collections.abc import Iterator

import torch


def seed_of(*place: int | str) -> int:
    """63 bits that depend on `place` alone, such as ("dropout", seed, step, micro-step).

    A keyed hash as a counter-based generator (Salmon et al. 2011): the randomness of any place is
    known without that of the places before it.
    """
    digest = hashlib.blake2b("/".join(map(str, place)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def seed(device: torch.device, number: int) -> None:
    """Seeds what is drawn on the CPU and on the device from here on. `torch.manual_seed` takes half
    a millisecond longer, for the kinds of devices that are not there.
    """
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def seeds_in(place: tuple[int | str, ...], count: int) -> Iterator[int]:
    """`seed_of` that place and 0, 1, 2 and so on."""
    begun = hashlib.blake2b("/".join(map(str, (*place, ""))).encode(), digest_size=8)
    for number in range(count):
        each = begun.copy()
        each.update(b"%d" % number)
        yield int.from_bytes(each.digest()) >> 1
