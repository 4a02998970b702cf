"""One completion: its prompt, its answers, and what is told of them."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from torch import Tensor

from tunery.completions import (
    ChatPrompt,
    ChoiceEnd,
    CompletionPart,
    Piece,
    Refusal,
    Sampling,
    TextPrompt,
    TokenSaid,
    Usage,
)
from tunery.data.prompts import Prompt, Unanswerable
from tunery.data.spoken import Spoken
from tunery.data.template import ChatTokenizer
from worker.engine.answers.adapters import Weights
from worker.engine.answers.rows import Rows
from worker.engine.answers.sampling import Sampler, told, with_chance
from worker.protocol import Complete, Report, Said

# Before an answer: what its first token's spaces depend on.
TOKENS_BEFORE = 4
# Tokens of a prompt in one part, which has a limit, and twenty others with each of them.
ECHOED = 64


@dataclass(eq=False)
class Asked:
    """A completion that waits, or whose prompt is read, or that is answered. `number` is that of
    the next part that is told.
    """

    command: Complete
    report: Callable[[Report], None]
    number: int = 0

    def tell(self, **part: object) -> None:
        made = CompletionPart.model_validate({"number": self.number, **part})
        command = self.command
        self.report(Said(completion_id=command.completion_id, token=command.token, part=made))
        self.number += 1

    def refuse(self, code: str, message: str, param: str | None = None) -> None:
        self.tell(refusal=Refusal(code=code, message=message, param=param))

    def release(self) -> None:
        """For another engine to answer. Of an answer that is half said none knows the rest."""
        if self.number == 0:
            self.tell(released=True)
        else:
            self.refuse(
                "answer_interrupted",
                "The worker could not go on with this answer. Ask again.",
            )


class Answer:
    """One of a completion's answers, as far as it is said. `token` is the last one."""

    def __init__(self, of: "Completion", choice: int) -> None:
        self.of = of
        self.choice = choice
        self.sampler = Sampler(of.sampling, choice)
        ids, prompt = of.prompt.ids, of.prompt
        self.spoken = Spoken(of.tokenizer, ids[-TOKENS_BEFORE:], of.sampling.stop)
        self.spoken.text = prompt.begun
        self.token = ids[-1]
        self.tokens = 0
        self.over = False

    @property
    def adapter(self) -> Weights | None:
        return self.of.adapter

    def say(self, token: int, said: TokenSaid | None) -> None:
        """Takes in the next token, and tells what is sure of the text."""
        self.token = token
        self.tokens += 1
        self.sampler.said[token] += 1
        if token in self.of.ends:
            self.end("stop")
            return
        self.spoken.say(token, said)
        if self.spoken.stopped or self.is_the_call():
            self.end("stop")
        elif self.tokens >= self.of.most:
            self.end("length")
        else:
            self.piece(*self.spoken.take(self.markers()))

    def markers(self) -> tuple[str, ...]:
        """Where a call may begin. One without an opening is all of an answer, or none."""
        form = self.of.prompt.form
        if form is None:
            return ()
        bare = not form.opening.strip()
        return () if bare and self.spoken.text.lstrip()[:1] not in {"", "{"} else (form.marker,)

    def is_the_call(self) -> bool:
        """Whether the one call that was asked for is complete."""
        prompt, text = self.of.prompt, self.spoken.text
        if not (prompt.one_call and prompt.form and text.rstrip().endswith("}")):
            return False
        return bool(prompt.form.calls_in(text, prompt.functions)[1])

    def end(self, reason: str) -> None:
        self.spoken.finish()
        form = self.of.prompt.form
        if form and self.markers():
            # What is said already is before the first marker, and so before a call.
            rest = self.spoken.text[self.spoken.given :]
            beside, calls = form.calls_in(rest, self.of.prompt.functions)
            if calls:
                _, tokens = self.spoken.until(len(self.spoken.text))
                self.piece(beside, tokens)
                calls = calls[:1] if self.of.prompt.one_call else calls
                self.of.pieces.append(Piece(choice=self.choice, tool_calls=calls))
                reason = "tool_calls"
        self.piece(*self.spoken.until(len(self.spoken.text)))
        self.of.ends_now.append(ChoiceEnd.model_validate({"choice": self.choice, "reason": reason}))
        self.over = True

    def piece(self, text: str, tokens: list[TokenSaid]) -> None:
        if text or tokens:
            self.of.pieces.append(Piece(choice=self.choice, text=text, tokens=tokens))


@dataclass(eq=False)
class Completion(Asked):
    """`most` tokens are said at most in each answer; one of `ends` ends it. Of the prompt `rows`
    has the first tokens.
    """

    tokenizer: ChatTokenizer = field(kw_only=True)
    prompt: Prompt = field(kw_only=True)
    adapter: Weights | None = field(kw_only=True)
    ends: Collection[int] = field(kw_only=True)
    most: int = field(kw_only=True)
    rows: Rows = field(kw_only=True)
    echoed: list[TokenSaid] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    ends_now: list[ChoiceEnd] = field(default_factory=list)

    @property
    def sampling(self) -> Sampling:
        return self.command.sampling

    @property
    def unread(self) -> int:
        return len(self.prompt.ids) - self.rows.lengths[0]

    @property
    def longest(self) -> int:
        """The tokens of its longest answer with the prompt."""
        return len(self.prompt.ids) + max((answer.tokens for answer in self.answers), default=0)

    @property
    def echoes(self) -> bool:
        """Whether the log-probabilities of the prompt's tokens are asked for."""
        prompt = self.command.prompt
        return (
            isinstance(prompt, TextPrompt)
            and prompt.echo
            and self.sampling.top_logprobs is not None
        )

    def echo(self, logits: Tensor, start: int) -> None:
        """What the model made of the prompt's tokens behind `start`: logits (tokens, vocabulary)
        of what comes after each of them.
        """
        ids = self.prompt.ids
        if start == 0:
            self.echoed.append(with_chance(self.tokenizer, ids[0], None))
        following = ids[start + 1 : start + 1 + len(logits)]
        top = self.sampling.top_logprobs or 0
        self.echoed += told(self.tokenizer, logits[: len(following)], following, top)

    def begin(self) -> None:
        """The prompt is read: its answers begin."""
        self.answers = [Answer(self, choice) for choice in range(self.sampling.n)]
        asked = self.command.prompt
        for answer in self.answers:
            if isinstance(asked, TextPrompt) and asked.echo:
                text = asked.text
                if text is None:
                    text = self.tokenizer.text_of(self.prompt.ids)
                for start in range(0, max(1, len(self.echoed)), ECHOED):
                    answer.piece("" if start else text, self.echoed[start : start + ECHOED])
                    self.flush()
            if self.most == 0:
                answer.end("length")

    def fail(self) -> None:
        """The model gives it no number, so that no token is likelier than another."""
        if not all(answer.over for answer in self.answers):
            for answer in self.answers:
                answer.over = True
            self.pieces, self.ends_now = [], []
            self.refuse(
                "answer_not_finite",
                "The model gives this prompt no finite numbers: its weights are damaged, or were "
                "trained at too high a learning rate. Choose another model or checkpoint.",
                "model",
            )

    def flush(self) -> None:
        """Tells what is new."""
        over = bool(self.answers) and all(answer.over for answer in self.answers)
        if not (self.pieces or self.ends_now):
            return
        usage = None
        if over:
            said = sum(answer.tokens for answer in self.answers)
            usage = Usage(prompt_tokens=len(self.prompt.ids), completion_tokens=said)
        self.tell(pieces=self.pieces, ends=self.ends_now, usage=usage)
        self.pieces, self.ends_now = [], []


def room_for(command: Complete, prompt: Prompt, context: int, vocabulary: int) -> int:
    """The most tokens of an answer. Raises `Unanswerable` if there is no room for any."""
    param = "messages" if isinstance(command.prompt, ChatPrompt) else "prompt"
    tokens, most = len(prompt.ids), command.sampling.max_tokens
    if tokens + (most != 0) > context:
        raise Unanswerable(
            "context_length_exceeded",
            f"The prompt has {tokens:,} tokens, and {command.base_model} takes {context:,} with "
            "its answer. Shorten it.",
            param,
        )
    if (largest := max(prompt.ids)) >= vocabulary:
        raise Unanswerable(
            "invalid_prompt",
            f"The prompt has token {largest}, and {command.base_model} only {vocabulary:,} tokens.",
            param,
        )
    for token in command.sampling.logit_bias:
        if not 0 <= token < vocabulary:
            raise Unanswerable(
                "invalid_logit_bias",
                f"`logit_bias` names token {token}; {command.base_model} has tokens 0 to "
                f"{vocabulary - 1}.",
                "logit_bias",
            )
    return min(context - tokens, context if most is None else most)
