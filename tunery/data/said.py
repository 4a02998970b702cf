"""A conversation as chat templates know it."""

import hashlib
import json
import re
from typing import Any, NamedTuple, Self

from tunery.data.rows import THOUGHT, Chat

# Behind a thought whose answer has no text.
CLOSING = re.compile(r"\s*</\w+>\s*")
# As Mistral's templates want a call's id.
ID_LENGTH = 9


class Said(NamedTuple):
    """A conversation as templates know it: OpenAI's messages and tools, with a call's arguments as
    an object. `trained` says of each message whether it is. Of `parallel_tool_calls` no template
    knows.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    trained: tuple[bool, ...]

    @classmethod
    def of(cls, row: Chat) -> Self:
        messages = []
        called: dict[str, str] = {}
        for message in row.messages:
            # OpenAI's newer word for the system role; templates know the older one.
            role = "system" if message.role == "developer" else message.role
            said: dict[str, Any] = {"role": role, "content": message.content}
            if message.reasoning:
                # As Qwen's and most others know it, and as gpt-oss does.
                said |= {"reasoning_content": message.reasoning, "thinking": message.reasoning}
            if message.tool_calls:
                called |= {call.id: call.name for call in message.tool_calls}
                said["tool_calls"] = [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": json.loads(call.arguments)},
                    }
                    for call in message.tool_calls
                ]
            name = message.name
            if message.tool_call_id:
                said["tool_call_id"] = message.tool_call_id
                # Of the tool OpenAI's message names the call only, some templates want its name.
                name = name or called.get(message.tool_call_id)
            if name:
                said["name"] = name
            messages.append(said)
        trained = tuple(message.trained for message in row.messages)
        return cls(messages, list(row.tools) or None, trained)

    def until(self, index: int) -> "Said":
        return Said(self.messages[:index], self.tools, self.trained[:index])

    def alone(self, index: int) -> "Said":
        """One message behind a short question."""
        question = {"role": "user", "content": "?"}
        return Said([question, self.messages[index]], self.tools, (False, self.trained[index]))

    def changed(self, index: int, **fields: object) -> "Said":
        """With other fields in one message; None takes one away."""
        message = {**self.messages[index], **fields}
        message = {name: value for name, value in message.items() if value is not None}
        return self._replace(
            messages=[*self.messages[:index], message, *self.messages[index + 1 :]]
        )

    def renamed(self, names: dict[int, str]) -> "Said":
        """As if all tools that these messages call had another name."""
        messages = [*self.messages]
        for index, name in names.items():
            calls = [
                {**call, "function": {**call["function"], "name": name}}
                for call in messages[index]["tool_calls"]
            ]
            messages[index] = {**messages[index], "tool_calls": calls}
        return self._replace(messages=messages)

    def nameless(self) -> "Said":
        """Without the names of those who speak; a tool's result keeps the tool's."""
        messages = [
            {key: value for key, value in message.items() if key != "name"}
            if message["role"] != "tool"
            else message
            for message in self.messages
        ]
        return self._replace(messages=messages)

    def called(self, index: int) -> list[str]:
        """The names of the tools that a message calls."""
        calls = self.messages[index].get("tool_calls", ())
        return [call["function"]["name"] for call in calls]

    def thought(self, index: int) -> tuple[str, str]:
        """(what a message's author thought, what they then said)."""
        message = self.messages[index]
        content = message["content"]
        if reasoning := message.get("reasoning_content"):
            return reasoning, content
        if found := THOUGHT.match(content):
            return found[1], content[found.end() :]
        return "", content

    def behind_thought(self, index: int, text: str, start: int, end: int) -> int:
        """Where what is said begins in the answer from `start` to `end` of a text; `start`, if no
        thought is written there.
        """
        thought, content = (part.strip() for part in self.thought(index))
        at = text.find(thought, start, end) if thought else -1
        if at < 0:
            return start
        behind = at + len(thought)
        if content and (found := text.find(content, behind, end)) >= 0:
            return found
        closing = CLOSING.match(text, behind, end)
        return closing.end() if closing else behind

    def parts(self, index: int) -> set[str]:
        """All texts of a message that belong into its rendering."""
        thought, answer = self.thought(index)
        return {thought.strip(), answer.strip(), *self.called(index)} - {""}


def forms(said: Said) -> list[tuple[str, Said]]:
    """The same conversation as stricter templates take it, with what was changed, the least first.
    Each has the changes of those before it.
    """
    found: list[tuple[str, Said]] = []
    changes: list[str] = []
    for words, change in (
        ("tool calls' ids are rewritten", short_ids),
        ("messages in a row from one side are joined", joined),
        ("the system message is written into the first user message", system_in_question),
        ("an empty user message is put before the assistant's opening", opened),
    ):
        changed = change(said)
        if changed is not said:
            changes.append(words)
            found.append((", ".join(changes), changed))
            said = changed
    return found


def short_ids(said: Said) -> Said:
    """Each of `ID_LENGTH` letters and digits; a call and its result have the same."""
    if not any("tool_calls" in message for message in said.messages):
        return said

    def short(id_: str) -> str:
        return hashlib.sha256(id_.encode()).hexdigest()[:ID_LENGTH]

    messages = []
    for message in said.messages:
        changed = {**message}
        if "tool_calls" in message:
            changed["tool_calls"] = [
                {**call, "id": short(call["id"])} for call in message["tool_calls"]
            ]
        if "tool_call_id" in message:
            changed["tool_call_id"] = short(message["tool_call_id"])
        messages.append(changed)
    return said._replace(messages=messages)


def joined(said: Said) -> Said:
    """Messages of one side in a row as one, with an empty line between, where both are trained or
    neither is, and none of them calls tools or has a thought.
    """
    messages: list[dict[str, Any]] = []
    trained: list[bool] = []
    for message, is_trained in zip(said.messages, said.trained, strict=True):
        plain = message.keys() <= {"role", "content"} and message["role"] in {"user", "assistant"}
        if (
            plain
            and messages
            and messages[-1].keys() <= {"role", "content"}
            and messages[-1]["role"] == message["role"]
            and trained[-1] == is_trained
        ):
            content = f"{messages[-1]['content']}\n\n{message['content']}"
            messages[-1] = {**messages[-1], "content": content}
        else:
            messages.append(message)
            trained.append(is_trained)
    if len(messages) == len(said.messages):
        return said
    return Said(messages, said.tools, tuple(trained))


def system_in_question(said: Said) -> Said:
    """As Gemma's newer template does it itself."""
    if len(said.messages) < 2 or [each["role"] for each in said.messages[:2]] != ["system", "user"]:
        return said
    system, question, *rest = said.messages
    content = f"{system['content']}\n\n{question['content']}"
    return Said([{**question, "content": content}, *rest], said.tools, said.trained[1:])


def opened(said: Said) -> Said:
    at = int(said.messages[0]["role"] == "system")
    if at >= len(said.messages) or said.messages[at]["role"] != "assistant":
        return said
    messages = [*said.messages[:at], {"role": "user", "content": ""}, *said.messages[at:]]
    return Said(messages, said.tools, (*said.trained[:at], False, *said.trained[at:]))


def overlap(one: str, other: str) -> int:
    """Characters of the longest end of `one` that `other` begins with (Knuth, Morris and Pratt
    1977).
    """
    shorter = [0] * len(other)  # of each beginning, its longest end that it begins with
    length = 0
    for at in range(1, len(other)):
        while length and other[at] != other[length]:
            length = shorter[length - 1]
        length += other[at] == other[length]
        shorter[at] = length
    length = 0
    for char in one:
        while length and (length == len(other) or char != other[length]):
            length = shorter[length - 1]
        length += char == other[length : length + 1]
    return length
