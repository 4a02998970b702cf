"""What a training holds of a device's memory for each token, as measured on the model itself."""

from typing import Annotated

from pydantic import Field

from tunery.fields import Bytes
from tunery.spec import Frozen

Count = Annotated[Bytes, Field(ge=0, le=2**53, strict=True)]


class Held(Frozen):
    """Memory beside the weights, at its peak, in bytes."""

    token: Annotated[Count, Field(ge=1, examples=[5_998_592])]
    """For each token that is computed at once."""
    pair: Annotated[Count, Field(examples=[704])] = 0
    """For each two tokens of one row: the scores of an attention that has to keep them."""


class Footprint(Frozen):
    """What a training of an adapter of r 16 on all linear layers holds of the device's memory."""

    kept: Held
    """With all activations kept for the backward pass."""
    recomputed: Held
    """With activations computed again in the backward pass, layer by layer."""
    one_row: bool
    """Whether scores exist for one row at a time, and not for all that are computed at once."""
    logits: Annotated[Count, Field(examples=[4_096_000])] = 0
    """In bytes for each position whose logits are computed, where the model's head is more than a
    product with its embeddings; 0: it is that.
    """

    def held(self, *, checkpointing: bool) -> Held:
        return self.recomputed if checkpointing else self.kept

    def scores(self, longest: int, micro_tokens: int, *, checkpointing: bool) -> int:
        """Bytes of the scores in a micro-batch of rows of at most `longest` tokens."""
        beside = longest if self.one_row else micro_tokens
        return self.held(checkpointing=checkpointing).pair * longest * beside
