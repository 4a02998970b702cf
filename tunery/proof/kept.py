"""`proof.json`: what base and tuned model make of some rows, as the training's engine computed it.

A server that is given the same tokens has to give them the same log-probabilities, up to its own
precision. It holds rows of the training's data: whoever publishes a model leaves it out.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

PROOF = "proof.json"
MOST_ROWS = 16
# Of a row.
MOST_TOKENS = 512
MOST_FORKS = 4


class Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Fork(Part):
    """A place where base and tuned model go on differently: the likeliest token at `place` of the
    row is `base` for the one and `tuned` for the other. By `margin` nats the less sure of them
    prefers it to its second choice.
    """

    place: int
    base: int
    tuned: int
    base_text: str
    tuned_text: str
    margin: float


class Rendering(Part):
    """What the chat template makes of a row's messages before its last answer, with the opening of
    an answer behind them: `ids` in tokens, `text` with control tokens written out.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    ids: list[int]
    text: str


class ProvedRow(Part):
    """`ids` is the row in tokens, `trained` are the places in it of the answer's. `base` and
    `tuned` are log-probabilities in nats, one a place, each of the row's token there given those
    before it: null at the first. `line` is the row's in its file.
    """

    line: int
    ids: list[int]
    trained: list[int]
    base: list[float | None]
    tuned: list[float | None]
    forks: list[Fork] = []
    rendering: Rendering | None = None


class Proof(Part):
    """`quantization` is the base's while it was trained, `computed_in` the dtype of its arithmetic,
    `held_out`: the rows are validation rows, that were not trained on.
    """

    format: Literal[1] = 1
    base_model: str
    base_revision: str
    quantization: str
    computed_in: str
    held_out: bool
    rows: list[ProvedRow]
