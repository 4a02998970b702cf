"""Where the answers of a conversation stand in what a chat template makes of it.

A template writes the whole conversation once. An answer is found in that text

1. between the marks of `{% generation %}`, where the template has them;
2. behind what the template writes of the messages before and its prompt to answer;
3. not at all, where the template writes a turn otherwise once others follow (thoughts left out, a
   system message moved). Such an answer is trained in a text of its own, in which it is the last:
   just as the model is asked for it.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tunery.data.jinja import Rendered, TemplateError
from tunery.data.said import Said, overlap

Span = tuple[int, int]
# What a template may leave out, by its word for it.
THOUGHTS = "thoughts"
# A prompt to answer that begins the thought itself, as of DeepSeek's distilled models.
OPENED = re.compile(r"<think>\s*\Z")
CLOSED = "</think>\n\n"
THOUGHT = re.compile(r"\A(<think>)?.*?</think>", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """The answer of message `index` in characters of `text`, None: of the whole conversation's.
    `marked`: the template says itself where it begins and ends.
    """

    index: int
    span: Span
    text: str | None = None
    marked: bool = False


@dataclass
class Conversation:
    """What a template makes of one. `controls` finds control tokens in a text."""

    said: Said
    write: Callable[..., Rendered]
    controls: re.Pattern[str]
    whole: Rendered = field(init=False)

    def __post_init__(self) -> None:
        self.whole = self.write(self.said)

    def render(self, said: Said, *, prompt: bool = False) -> str:
        return self.write(said, add_generation_prompt=prompt).text

    def differs(self, other: Said) -> bool:
        """Whether another conversation has another text, or none."""
        try:
            return self.whole.text != self.render(other)
        except TemplateError:
            return True

    def answers(self, kept: int) -> list[Answer]:
        """Those that are trained, in order. None that begins behind `kept` characters is looked
        for: each costs a rendering of all before it.

        Raises:
            TemplateError: an answer cannot be told from the rest.

        """
        marked = self.marked()
        found: list[Answer] = []
        for index, trained in enumerate(self.said.trained):
            if not trained:
                continue
            if index in marked:
                if marked[index][0] >= kept:
                    break
                found.append(Answer(index, marked[index], marked=True))
                continue
            before = self.before(index)
            if before is not None and self.whole.text.startswith(before):
                if len(before) >= kept:
                    break
                if (end := self.end(index, len(before))) is not None:
                    found.append(Answer(index, (len(before), end)))
                    continue
            found.append(self.asked(index, before))
        return found

    def marked(self) -> dict[int, Span]:
        """The marked answers by the numbers of their messages; none, if it is not clear whose they
        are, or if one lacks what its message says.
        """
        from_model = [
            index
            for index, message in enumerate(self.said.messages)
            if message["role"] == "assistant"
        ]
        marks = self.whole.marks
        if not marks or len(marks) != len(from_model):
            return {}
        found = dict(zip(from_model, marks, strict=True))
        return {
            index: (start, end)
            for index, (start, end) in found.items()
            if has(self.whole.text[start:end], self.said.parts(index))
        }

    def before(self, index: int) -> str | None:
        """What the model goes on from with that message. None of an opening, and where the template
        refuses what comes before.
        """
        if index == 0:
            return None
        try:
            return self.render(self.said.until(index), prompt=True)
        except TemplateError:
            return None

    def end(self, index: int, start: int) -> int | None:
        """Where the message that begins at `start` of the whole ends, with what closes its turn."""
        until, whole = self.render(self.said.until(index + 1)), self.whole.text
        if whole.startswith(until):
            return len(until)
        parts = self.said.parts(index)
        if not parts:
            return None
        turn, here = until[start:], whole[start : len(until)]
        # Thinking models write (empty) thoughts before an answer only while it is the last.
        length = overlap(turn, here)
        if length and has(here[:length], parts):
            return start + length
        # Others close only the last turn with the end of the text.
        length = in_common(turn, here)
        closed = [found.end() for found in self.controls.finditer(here, 0, length)]
        if closed and has(here[: closed[-1]], parts):
            return start + closed[-1]
        return None

    def asked(self, index: int, before: str | None) -> Answer:
        """A text of its own for one answer, which is the last in it."""
        until = self.render(self.said.until(index + 1))
        if before is not None and until.startswith(before):
            return Answer(index, (len(before), len(until)), until)
        turn = self.turn(index)
        if before is None:
            # Thinking models write (empty) thoughts only behind a question.
            turn = turn if until.endswith(turn) else THOUGHT.sub("", turn).lstrip()
            if not until.endswith(turn):
                raise rendered_otherwise(index + 1)
            span = (len(until) - len(turn), len(until))
            inside = self.whole.text.startswith(until)
            return Answer(index, span, None if inside else until)
        return Answer(index, (len(before), len(before) + len(turn)), before + turn)

    def turn(self, index: int) -> str:
        """What the model writes for that message, asked any question."""
        alone = self.said.alone(index)
        asked, whole = self.render(alone.until(1), prompt=True), self.render(alone)
        if whole.startswith(asked):
            return whole[len(asked) :]
        opened = OPENED.search(asked)
        if opened is None or not whole.startswith(asked[: opened.start()]):
            raise rendered_otherwise(index + 1)
        thought, _ = self.said.thought(index)
        closed = f"{thought.strip()}\n{CLOSED}" if thought.strip() else CLOSED
        return closed + whole[opened.start() :].lstrip()

    def require_calls(self, answers: list[Answer]) -> None:
        """Raises TemplateError if the template does not write the tool calls of a message."""
        said, own, shown = (
            self.said,
            {answer.index: answer for answer in answers},
            self.calls_shown(),
        )
        for index, message in enumerate(said.messages):
            if not message.get("tool_calls"):
                continue
            if answer := own.get(index):
                start, end = answer.span
                text = (answer.text or self.whole.text)[start:end]
                written = has(text, set(said.called(index)))
            elif said.trained[index]:
                continue  # it is cut off
            else:
                silent = said.changed(index, tool_calls=None)
                written = index in shown or self.differs(silent)
            if not written:
                raise TemplateError(
                    "the base model's chat template does not write the tool calls of message "
                    f"{index + 1}"
                )

    def calls_shown(self) -> set[int]:
        """Of the untrained messages that call tools, those whose calls the template writes: other
        names in their place are found in what it makes of all of them at once.
        """
        said = self.said
        calling = [
            index
            for index, message in enumerate(said.messages)
            if message.get("tool_calls") and not said.trained[index]
        ]
        if not calling:
            return set()
        other = "call"
        while other in self.whole.text:
            other += "x"
        try:
            renamed = self.render(said.renamed({index: f"{other}{index}_" for index in calling}))
        except TemplateError:
            return set()
        return {int(index) for index in re.findall(f"{other}([0-9]+)_", renamed)} & set(calling)

    def lost(self, answers: list[Answer]) -> list[str]:
        """What the conversation says and the template leaves out, in words."""
        said, found = self.said, dict[str, None]()
        own = {answer.index: answer for answer in answers}
        texts = [self.whole.text, *(each.text for each in answers if each.text)]
        for index, message in enumerate(said.messages):
            role, (thought, content) = message["role"], said.thought(index)
            if answer := own.get(index):
                start, end = answer.span
                within = [(answer.text or self.whole.text)[start:end]]
                if thought.strip() and not shown(thought, within):
                    found[THOUGHTS] = None
            else:
                within = texts
            if shown(content, within) or self.differs(said.changed(index, content="…")):
                continue
            beside = " beside a tool call" if message.get("tool_calls") else ""
            found[f"the {role} message's text{beside}"] = None
        nameless = said.nameless()
        if nameless.messages != said.messages and not self.differs(nameless):
            found["names"] = None
        return list(found)


def has(text: str, parts: set[str]) -> bool:
    return all(part in text for part in parts)


def shown(part: str, texts: list[str]) -> bool:
    """Whether one of the texts has it, as it is or within JSON."""
    part = part.strip()
    forms = (part, json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1])
    return any(form in text for text in texts for form in forms)


def in_common(one: str, other: str) -> int:
    """How many characters both begin with."""
    most = min(len(one), len(other))
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def rendered_otherwise(message: int) -> TemplateError:
    return TemplateError(
        "the base model's chat template does not render the beginning of a conversation as it does "
        f"within the whole (message {message}), so its turns cannot be told apart"
    )
