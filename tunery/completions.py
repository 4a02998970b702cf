"""What a model is asked and what it answers, as the API and whoever computes it say it.

A completion lives as long as its client's request: it is claimed by a worker under a lease with a
fencing token as a job is, and is forgotten when it is over.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from tunery.facts import BaseModelFacts, FileLink
from tunery.fields import A_SIGNATURE, ProjectId, Seconds
from tunery.messages import AdapterLink, Word, WorkerFacts
from tunery.plan.memory import Precision
from tunery.wire import Answer, Count, Message, Text

MOST_CHOICES = 16
# Of one part: its body has a limit too (`api.http.edge`).
MOST_PIECES, MOST_CHARACTERS = 1_024, 1 << 20
MOST_TOP_LOGPROBS = 20

CompletionId = Annotated[
    str, Field(description="Id of the completion.", examples=["cmpl-NqVwYS81VP7Hb1DX8pPd5khx"])
]
CompletionToken = Annotated[
    int,
    Field(
        description="The fencing token: the number of this claim of the completion, from 1.",
        examples=[1],
    ),
]
Choice = Annotated[
    Count,
    Field(description="Number of the answer, from 0, where several are asked for.", examples=[0]),
]
A_SECRET = f"lease.cmpl-NqVwYS81VP7Hb1DX8pPd5khx.1.{A_SIGNATURE}"
A_TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
A_QUESTION = {"role": "user", "content": "What does a cow eat?"}
A_TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


def said(most: int, *examples: str) -> Any:  # noqa: ANN401 - pydantic's own type
    return Field(max_length=most, examples=list(examples))


Fragment = Annotated[str, said(MOST_CHARACTERS, " grass")]
Bytes = Annotated[
    list[Annotated[int, Field(ge=0, le=255)]], Field(max_length=4_096, examples=[[32, 103]])
]


class ChatPrompt(Answer):
    """A conversation that the model is to go on with."""

    type: Literal["chat"] = "chat"
    """The kind of prompt."""
    messages: Annotated[list[dict[str, Any]], Field(examples=[[A_QUESTION]])]
    """Its messages as chat templates take them: `role`, `content` as text, `tool_calls`."""
    tools: Annotated[list[dict[str, Any]] | None, Field(examples=[[A_TOOL]])] = None
    """Functions that the model may call, as OpenAI describes them; null: none."""
    tool_choice: Annotated[str, Field(examples=["auto"])] = "auto"
    """"auto", "none", "required", or the name of the function that is to be called."""


class TextPrompt(Answer):
    """A text that the model is to go on with."""

    type: Literal["text"] = "text"
    """The kind of prompt."""
    text: Annotated[str | None, Field(examples=["A cow eats"])] = None
    """The text; null: `ids` are given."""
    ids: Annotated[list[int] | None, Field(examples=[[464, 9875, 25365]])] = None
    """The text in tokens; null: `text` is given."""
    echo: bool = False
    """Whether the answer begins with the prompt, and has its tokens' log-probabilities."""


class Sampling(Answer):
    """How the next token is chosen, again and again, and until when."""

    max_tokens: Annotated[int | None, Field(examples=[256])] = None
    """The most tokens of one answer; null: as many as the model's context has room for."""
    temperature: Annotated[float, Field(examples=[0.7])] = 1.0
    """What the scores are divided by, 0 to 2; at 0 the likeliest token is always chosen."""
    top_p: Annotated[float, Field(examples=[0.9])] = 1.0
    """Only the likeliest tokens are chosen from that have this probability together, 0 to 1."""
    seed: Annotated[int | None, Field(examples=[7])] = None
    """The same seed gives the same answer on the same machine; null: chance decides."""
    n: Annotated[int, Field(examples=[1])] = 1
    """How many answers are given."""
    stop: list[str] = Field(default_factory=list, examples=[["\n"]])
    """Texts that end an answer, which does not have them."""
    top_logprobs: Annotated[int | None, Field(examples=[5])] = None
    """So many of the likeliest tokens are told at each position; null: no log-probabilities."""
    frequency_penalty: Annotated[float, Field(examples=[0.5])] = 0.0
    """What a token's score loses for each time that it was said, -2 to 2."""
    presence_penalty: Annotated[float, Field(examples=[0.5])] = 0.0
    """What a token's score loses once it was said, -2 to 2."""
    logit_bias: dict[int, float] = Field(default_factory=dict, examples=[{"464": -100}])
    """What is added to the scores of tokens, by their ids."""


class CompletionClaim(WorkerFacts):
    """A worker that asks for a completion to compute."""

    warm_base: Annotated[Word, Field(examples=["tunery-demo"])] | None = None
    """Id of the base model that the engine has loaded; null: none. Its completions come first."""
    warm_quantization: Annotated[Precision | None, Field(examples=["nf4"])] = None
    """What that base is quantized to; null: none is loaded."""
    warm_double_quant: bool = True
    """Whether its quantization constants are quantized too."""
    only_warm: bool = False
    """Whether it can load no other base now, because it trains on that one."""


class CompletionLease(Answer):
    """A claimed completion, with all that is needed to compute it."""

    id: CompletionId
    token: CompletionToken
    secret: Annotated[str, Field(examples=[A_SECRET])]
    """Bearer token for the route of this completion. It is valid for nothing else."""
    lease_seconds: Annotated[Seconds, Field(examples=[15.0])]
    """Seconds without a word after which another worker may be given the completion."""
    project_id: ProjectId
    """Id of the project that asks."""
    prompt: Annotated[ChatPrompt | TextPrompt, Field(discriminator="type")]
    """What is asked."""
    sampling: Sampling
    """How the answer is chosen."""
    base_model: BaseModelFacts
    """The base model as it is registered; of a whole tuned model, the model itself."""
    base_files: list[FileLink] = Field(default_factory=list)
    """Where to get its files, if they are in the service's storage; else empty."""
    quantization: Annotated[Precision | None, Field(examples=["nf4"])] = None
    """What the base is to be quantized to, as the adapter was trained; null: as it is loaded."""
    double_quant: bool = True
    """Whether the quantization constants are quantized too."""
    adapter: AdapterLink | None = None
    """The adapter that is put on the base; null: the base itself answers."""
    chat_template: Annotated[str | None, Field(examples=[A_TEMPLATE])] = None
    """The template that the model was trained with, in Jinja; null: the base's own."""


class TokenChance(Message):
    """A token and how likely the model found it."""

    text: Fragment
    """The token as text; one that is no whole character has a sign for what is missing."""
    bytes: Bytes
    """Its UTF-8 bytes."""
    logprob: Annotated[float | None, Field(examples=[-0.25])]
    """Its log-probability, in nats, before temperature and top_p; null of a text's first token."""


class TokenSaid(TokenChance):
    """A token of the answer, or of a prompt that is echoed."""

    id: Annotated[Count, Field(examples=[8701])]
    """Its id."""
    top: list[TokenChance] = Field(default_factory=list, max_length=MOST_TOP_LOGPROBS)
    """The likeliest tokens at its place."""


class ToolCall(Message):
    """A function that the model calls."""

    name: Annotated[str, said(MOST_CHARACTERS, "weather")]
    """Name of the function."""
    arguments: Annotated[str, said(MOST_CHARACTERS, '{"town": "Bern"}')]
    """Its arguments, as JSON."""


class Piece(Message):
    """The next part of an answer."""

    choice: Choice = 0
    text: Fragment = ""
    """What follows."""
    tokens: list[TokenSaid] = Field(default_factory=list, max_length=MOST_CHARACTERS)
    """Its tokens, if log-probabilities are asked for."""
    tool_calls: list[ToolCall] = Field(default_factory=list, max_length=MOST_PIECES)
    """Functions that are called, each whole."""


class ChoiceEnd(Message):
    """An answer is complete."""

    choice: Choice = 0
    reason: Literal["stop", "length", "tool_calls"]
    """Why it ends: the model or a stop text ended it, it has no more room, or it calls functions.
    """


class Usage(Message):
    """What a completion took."""

    prompt_tokens: Annotated[Count, Field(examples=[21])]
    """Tokens of the prompt."""
    completion_tokens: Annotated[Count, Field(examples=[64])]
    """Tokens of all answers together."""


class Refusal(Message):
    """Why this can never be answered: a fault of what is asked."""

    code: Annotated[str, said(64, "context_length_exceeded")]
    """Error code, for programs."""
    message: Annotated[
        Text, Field(examples=["The prompt has 1,100 tokens; the model reads 1,024."])
    ]
    """What is wrong and how to mend it, in a sentence for people."""
    param: Annotated[str | None, said(128, "messages")] = None
    """The parameter that is at fault; null: none in particular."""


class CompletionPart(Message):
    """The next part of all answers of one completion. A part sent twice is taken once."""

    number: Annotated[Count, Field(examples=[0])]
    """Number of the part within the lease, from 0. An empty part only renews the lease."""
    pieces: list[Piece] = Field(default_factory=list, max_length=MOST_PIECES)
    """What is said next."""
    ends: list[ChoiceEnd] = Field(default_factory=list, max_length=MOST_CHOICES)
    """The answers that are complete now."""
    usage: Usage | None = None
    """What it took; null until all answers are complete."""
    refusal: Refusal | None = None
    """Why there is no answer; null: there is one."""
    released: bool = False
    """Whether the worker gives it back, for another to compute."""

    @property
    def is_last(self) -> bool:
        return self.usage is not None or self.refusal is not None or self.released
