"""What a model says to many prompts if it always says the likeliest: for whoever compares models,
while nobody waits for a single answer.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from worker.engine.answers.rows import Rows, Voice
from worker.engine.device import device_memory, free_cached, is_out_of_memory
from worker.engine.model.base import Base

MOST_AT_ONCE = 16
# Of the device's memory, what the tokens that are answered may take beside the training.
MEMORY_SHARE = 0.05
# Of a prompt, what is read at once: a training's rows may be far shorter.
PIECE_TOKENS = 2048


class Opening(NamedTuple):
    """The tokens before an answer, and those that end it."""

    ids: list[int]
    ends: Collection[int]


@torch.no_grad()
def likeliest(
    base: Base, prompts: Sequence[Opening], max_tokens: int, stop_if_asked: Callable[[], None]
) -> list[list[int]]:
    """The tokens after each prompt, without that which ends them, from the model in eval mode as it
    is, with whatever is trained on it. Fewer are answered at once where memory is short.
    `stop_if_asked` is called before each token, and each piece of a prompt.
    """
    voice, answers = Voice(base), list[list[int]]()
    most = MOST_AT_ONCE if voice.batched else 1
    while rest := prompts[len(answers) :]:
        batch = rest[: min(most, room_for(rest[:most], max_tokens, base))]
        try:
            said = go_on(voice, batch, max_tokens, stop_if_asked)
        except Exception as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
            most = len(batch) // 2
        else:
            answers += said
            continue
        # Not in the handler, whose traceback holds on to the tensors.
        free_cached()
    return answers


def room_for(prompts: Sequence[Opening], max_tokens: int, base: Base) -> int:
    """How many of them may be answered at once; at least one."""
    shape = base.folder.shape
    token = 2 * shape.layers * shape.kv_heads * shape.head_dim * base.model.dtype.itemsize
    longest = max(len(prompt.ids) for prompt in prompts) + max_tokens
    return max(1, int(MEMORY_SHARE * device_memory() // (longest * token)))


def go_on(
    voice: Voice,
    prompts: Sequence[Opening],
    max_tokens: int,
    stop_if_asked: Callable[[], None],
) -> list[list[int]]:
    """The likeliest tokens after each prompt, until one that ends it comes, or `max_tokens` have,
    or the model has no more positions. Each prompt is read alone.
    """
    device, context = voice.base.model.device, voice.base.folder.context_length
    said: list[list[int]] = [[] for _ in prompts]
    parts: list[Rows] = []
    going: list[int] = []

    def take(numbers: list[int], states: Tensor) -> list[int]:
        """The next tokens, from states (rows, width); the places of the rows that go on."""
        stop_if_asked()
        on = []
        tokens = voice.logits(states).argmax(dim=-1).tolist()
        for place, (number, token) in enumerate(zip(numbers, tokens, strict=True)):
            prompt = prompts[number]
            if token in prompt.ends:
                continue
            said[number].append(token)
            used = len(prompt.ids) + len(said[number])
            if len(said[number]) < max_tokens and used < context:
                on.append(place)
        return on

    for number, prompt in enumerate(prompts):
        rows, states = voice.empty(), torch.empty(0)
        count = PIECE_TOKENS if voice.batched else len(prompt.ids)
        for start in range(0, len(prompt.ids), count):
            stop_if_asked()
            ids = torch.tensor([prompt.ids[start : start + count]], device=device)
            states = voice.states(rows, ids)
        if take([number], states[:, -1]):
            going.append(number)
            parts.append(rows)
    if not parts:
        return said
    rows = Rows.together(parts)
    while going:
        ids = torch.tensor([[said[number][-1]] for number in going], device=device)
        on = take(going, voice.states(rows, ids)[:, -1])
        if on and len(on) < len(going):
            rows = rows.kept(on)
        going = [going[place] for place in on]
    return said
