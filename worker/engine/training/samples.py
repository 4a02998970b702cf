"""What the model says of held-out rows, beside the model that the training started from."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunery.data.template import ChatTokenizer
from tunery.measured import RowLoss, Sample, Samples
from worker.engine.data.rows import TokenRow
from worker.engine.training.slot import Said, Slot

ANSWER_TOKENS = 64
# Of a text that goes on by itself, the part that is given.
GIVEN_TOKENS = 32
SHOWN_CHARACTERS = 1_000
EXTREMES = 3


@dataclass(frozen=True)
class HeldOut:
    """The validation rows, drawn as they are evaluated; so many of them are `answered`."""

    rows: Sequence[TokenRow]
    answered: int
    tokenizer: ChatTokenizer

    @torch.no_grad()
    def ask(self, slot: Slot, losses: list[float], stop_if_asked: Callable[[], None]) -> Said:
        """What the model says now, beside the rows' `losses`. Without dropout and without chance:
        always the likeliest.
        """
        slot.model.eval()
        answers = []
        for row in self.rows[: self.answered]:
            prompt, _ = parted(row)
            said = go_on(slot, prompt, self.tokenizer.control_tokens.ids, stop_if_asked)
            answers.append(self.tokenizer.text_of(said))
        return Said(answers, losses)

    def compared(self, before: Said, now: Said) -> Samples:
        in_order = sorted(range(len(now.losses)), key=lambda row: now.losses[row])

        def loss_of(number: int) -> RowLoss:
            row = self.rows[number]
            text = self.tokenizer.text_of(row.ids.tolist())[:SHOWN_CHARACTERS]
            losses = {"base_loss": before.losses[number], "loss": now.losses[number]}
            return RowLoss(line=row.line, text=text, **losses)

        return Samples(
            answers=[
                self.sample(row, base, tuned)
                for row, base, tuned in zip(self.rows, before.answers, now.answers, strict=False)
            ],
            best=[loss_of(number) for number in in_order[:EXTREMES]],
            worst=[loss_of(number) for number in in_order[EXTREMES:][-EXTREMES:][::-1]],
        )

    def sample(self, row: TokenRow, base: str, tuned: str) -> Sample:
        ends = self.tokenizer.control_tokens.ids
        given, answer = (part.tolist() for part in parted(row))
        prompt = self.tokenizer.text_of(given)
        wanted = self.tokenizer.text_of([token for token in answer if token not in ends])
        return Sample(
            line=row.line,
            prompt=prompt[-SHOWN_CHARACTERS:],
            expected=wanted[:SHOWN_CHARACTERS],
            base=base,
            tuned=tuned,
        )


def parted(row: TokenRow) -> tuple[Tensor, Tensor]:
    """(what comes before the row's last answer, that answer with its end) in tokens. Of a pair it
    is the preferred one's; of a text, which is an answer from its beginning, some is given.
    """
    trained = row.trained[: row.documents[0]]
    end = int(trained.nonzero()[-1]) + 1
    start = end
    while start > 0 and trained[start - 1]:
        start -= 1
    if start <= 1:
        start = max(1, min(GIVEN_TOKENS, end // 2))
    return row.ids[:start], row.ids[start:end]


def go_on(
    slot: Slot, prompt: Tensor, ends: Collection[int], stop_if_asked: Callable[[], None]
) -> list[int]:
    """The likeliest token after `prompt` (n,), again and again, until one of `ends` comes, or
    `ANSWER_TOKENS` have, or the model has no more positions.
    """
    positions = getattr(slot.causal.config.get_text_config(), "max_position_embeddings", math.inf)
    device = slot.model.device
    ids, cache, said, place = prompt.long()[None].to(device), None, list[int](), 0
    while len(said) < ANSWER_TOKENS and place < positions:
        stop_if_asked()
        where = {}
        if slot.way == "packed":  # the positions of other families are their own
            where["position_ids"] = torch.arange(place, place + ids.shape[1], device=device)[None]
        out = slot.head.body(input_ids=ids, past_key_values=cache, use_cache=True, **where)
        cache, place = out.past_key_values, place + ids.shape[1]
        token = int(slot.head.logits(out.last_hidden_state[0, -1:]).argmax())
        if token in ends:
            break
        said.append(token)
        ids = torch.tensor([[token]], device=device)
    return said
