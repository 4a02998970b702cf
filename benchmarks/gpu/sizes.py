"""How much is measured: for one 80 GB GPU, or tiny, to see that all of it works."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.gpu.bases import (
    LLAMA_1B,
    LLAMA_8B,
    TINY_1B,
    TINY_8B,
    Dimensions,
    Rows,
    random_rows,
)
from worker.engine.data.rows import TokenRow


@dataclass(frozen=True)
class Size:
    """`long` rows have so many tokens, and no row has more. `packs` are the counts of packed rows
    that other trainers' steps are cut into; `head` are (positions, width, vocabulary).
    """

    small: Dimensions = LLAMA_1B
    large: Dimensions = LLAMA_8B
    step_tokens: int = 16_384
    long: int = 4096
    micro_tokens: Sequence[int] = (1024, 4096, 8192, 16_384)
    fit_tokens: Sequence[int] = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
    warm_up: int = 1
    steps: int = 3
    packs: Sequence[int] = (4, 1)
    head: Sequence[tuple[int, int, int]] = ((4096, 4096, 128_256), (16_384, 4096, 128_256))
    row_kinds: Sequence[Rows] = ("short", "long")

    def rows(self, kind: Rows, dimensions: Dimensions, seed: int) -> list[TokenRow]:
        """One step's."""
        tokens, vocab = self.step_tokens, dimensions.vocab
        return random_rows(kind, tokens, seed=seed, vocab=vocab, long=self.long)


FULL = Size()
TINY = Size(
    small=TINY_1B,
    large=TINY_8B,
    step_tokens=512,
    long=128,
    micro_tokens=(64, 128, 512),
    fit_tokens=(64, 128, 256, 512),
    steps=2,
    head=((128, 64, 4096),),
)
