"""A frozen base that is divided among the GPUs of one training: each has a part of each layer, room
for two whole layers, and all that lies outside of layers.
"""

from dataclasses import dataclass, fields

from tunery.plan.bytes_each import NCCL_BYTES
from tunery.plan.families import FAMILIES
from tunery.plan.memory import Needs, Precision
from tunery.plan.shape import ENCODERS

# The layer that is computed, and the next, which is gathered meanwhile.
ROOMS = 2
# Whose layers are all alike, and each passed once forward and once back.
DIVIDED = FAMILIES.keys() - ENCODERS


@dataclass(frozen=True)
class Divided(Needs):
    """What each of so many `gpus` needs."""

    gpus: int = 1

    def base(self, quantization: Precision) -> int:
        """A part of the layers, room for two, and what a whole base takes beside its layers."""
        layers = self.layers(quantization)
        part, room = -(-layers // self.gpus), -(-layers // self.shape.layers)
        return super().base(quantization) - layers + part + ROOMS * room


def divided(needs: Needs, quantization: str, gpus: int) -> Needs:
    """The same among so many GPUs; as they are where that is one, or such a base is not divided."""
    if gpus == 1 or why_whole(needs, quantization):
        return needs
    given = {field.name: getattr(needs, field.name) for field in fields(Needs)}
    nccl = NCCL_BYTES if needs.compute == "bf16" else 0
    return Divided(**given | {"nccl": nccl}, gpus=gpus)


def why_whole(needs: Needs, quantization: str) -> str | None:
    """Why each GPU must hold the whole base; None: it can be divided."""
    if needs.lora is None:
        return "all of its weights are trained"
    if quantization == "int8":
        return "a base in int8 is not divided"
    if needs.shape.architecture not in DIVIDED:
        return f"a base of type {needs.shape.architecture} is not divided"
    return None
