"""What the model says of held-out rows, beside the model that the training started from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from tunery.data.template import ChatTokenizer
from tunery.measured import RowLoss, Sample, Samples
from worker.engine.answers.likeliest import Opening, likeliest
from worker.engine.data.rows import TokenRow
from worker.engine.model.base import Base
from worker.engine.training.slot import Said, Slot

ANSWER_TOKENS = 64
# Of a text that goes on by itself, the part that is given.
GIVEN_TOKENS = 32
SHOWN_CHARACTERS = 1_000
EXTREMES = 3


@dataclass(frozen=True)
class HeldOut:
    """The validation rows, drawn as they are evaluated; so many of them are `answered` by what is
    trained on the base.
    """

    rows: Sequence[TokenRow]
    answered: int
    base: Base

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self.base.folder.tokenizer

    def ask(self, slot: Slot, losses: list[float], stop_if_asked: Callable[[], None]) -> Said:
        """What the model says now, beside the rows' `losses`. Without dropout and without chance:
        always the likeliest.
        """
        slot.model.eval()
        ends = self.tokenizer.control_tokens.ids
        asked = (parted(row)[0].tolist() for row in self.rows[: self.answered])
        prompts = [Opening(ids, ends) for ids in asked]
        said = likeliest(self.base, prompts, ANSWER_TOKENS, stop_if_asked)
        return Said(list(map(self.tokenizer.text_of, said)), losses)

    def answered_now(
        self, slot: Slot, losses: list[float], stop_if_asked: Callable[[], None]
    ) -> Samples | None:
        """None if nothing was asked before the training."""
        if slot.base_said is None:
            return None
        return self.compared(slot.base_said, self.ask(slot, losses, stop_if_asked))

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
