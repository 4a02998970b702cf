"""How far a merged model is from the adapter on the base that it was trained on."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from tunery.data.columns import Columns
from tunery.data.jinja import TemplateError
from tunery.data.read import read_rows
from tunery.data.rows import Chat, Fault, Preference
from tunery.spec import Frozen, Supervised, TrainingSpec
from tunery.spec import Preference as PreferenceObjective
from worker.engine.data.rows import TokenRow
from worker.engine.device import device
from worker.engine.model.base import BaseFolder
from worker.engine.training.prepare import objective_of, tokenizer_of

ROWS = 8
# Of a row: the tokens that are read, and the predictions that are compared. All of a large
# vocabulary's logits take 300 MB.
LENGTH = 1024
PREDICTIONS = 64


class Drift(Frozen):
    """Over `tokens` predictions in `rows` rows of a file: the largest difference of a logit, how
    often both guess the same, and the mean NLL in nats of each.
    """

    file: str
    rows: int
    tokens: int
    max_logit_difference: float
    top1_agreement: float
    adapter_nll: float
    merged_nll: float

    def in_words(self) -> str:
        return (
            f"on {self.tokens} tokens of {self.rows} rows of the {self.file} file, its logits are "
            f"at most {self.max_logit_difference:.2g} from those of the adapter on the base that "
            f"it was trained on; the best guess is the same for {100 * self.top1_agreement:.1f} % "
            f"of them, and the loss is {self.merged_nll:.4f} instead of {self.adapter_nll:.4f}"
        )


def few_rows(
    path: Path, spec: TrainingSpec, base: BaseFolder, columns: Columns | None = None
) -> list[TokenRow]:
    """The first that have something to guess, of each its first tokens; of a preference its
    preferred answer.

    Raises:
        Untrainable: see `objective_of`.

    """
    spec = spec.model_copy(update={"max_length": min(spec.max_length, LENGTH)})
    if isinstance(spec.objective, PreferenceObjective):
        spec = spec.model_copy(update={"objective": Supervised()})
    objective = objective_of(spec, base)
    tokenizer = tokenizer_of(spec, base)
    found: list[TokenRow] = []
    for row in read_rows(path, columns=columns):
        if isinstance(row, Fault):
            continue
        if isinstance(row, Preference):
            row = Chat(row.line, (*row.input, *row.preferred), row.tools)  # noqa: PLW2901
        try:
            encoded = objective.encode(row, tokenizer)
        except TemplateError:
            continue
        found += [each for each in objective.drawn(encoded.rows[:1], None) if each.trained_tokens]
        if len(found) == ROWS:
            break
    return found


@torch.no_grad()
def predictions(
    model: PreTrainedModel, rows: Sequence[TokenRow], stop_if_asked: Callable[[], None]
) -> list[Tensor]:
    """For each row the logits (P, vocabulary) fp32, on the CPU, for its first `guesses`."""
    model.eval()
    found = []
    for row in rows:
        stop_if_asked()
        ids = row.ids.long().to(device())
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        places, _ = guesses(row)
        found.append(logits[places.to(device())].float().cpu())
    return found


def guesses(row: TokenRow) -> tuple[Tensor, Tensor]:
    """(places, labels), (P,) int64 each: where the first trained tokens are guessed, and they."""
    trained = row.trained.nonzero()[:PREDICTIONS, 0]
    if row.wanted is not None:
        return trained, row.wanted[trained].long()
    return trained - 1, row.ids[trained].long()


def compare(
    file: str, rows: Sequence[TokenRow], adapter: Sequence[Tensor], merged: Sequence[Tensor]
) -> Drift:
    labels = torch.cat([guesses(row)[1] for row in rows])
    ours, theirs = torch.cat(list(merged)), torch.cat(list(adapter))
    return Drift(
        file=file,
        rows=len(rows),
        tokens=len(labels),
        max_logit_difference=(ours - theirs).abs().max().item(),
        top1_agreement=(ours.argmax(1) == theirs.argmax(1)).float().mean().item(),
        adapter_nll=cross_entropy(theirs, labels).item(),
        merged_nll=cross_entropy(ours, labels).item(),
    )
