"""What the model makes of a batch."""

import torch
from torch import Tensor

from worker.engine.data.batches import Batch
from worker.engine.model.documents import packed_as
from worker.engine.training.loss import nll_through, token_nll
from worker.engine.training.slot import Slot


def score(slot: Slot, batch: Batch) -> tuple[Tensor, Tensor]:
    """(NLL in nats, whether the guess is right) at each of a batch's places; (P,) fp32 and bool."""
    head = slot.head
    hidden = hidden_states(slot, batch).index_select(0, batch.places)
    if head.plain:
        return token_nll(hidden, head.weights.weight, batch.labels, head.weights.bias)
    return nll_through(head.logits, hidden, batch.labels, trained=slot.trains_head)


def hidden_states(slot: Slot, batch: Batch) -> Tensor:
    """(N, width) of the pack's tokens."""
    body, documents = slot.head.body, batch.documents
    if slot.way in {"padded", "row by row"}:
        apart = documents.alone if slot.way == "row by row" else documents.apart
        # Positions are the family's own: some count them from the mask.
        states = [
            body(
                input_ids=rows.of(batch.ids),
                attention_mask=rows.there.long(),
                use_cache=False,
            ).last_hidden_state
            for rows in apart.batches
        ]
        return apart.together(states)[0]
    with packed_as(documents):
        hidden: Tensor = body(
            input_ids=batch.ids,
            position_ids=batch.positions + slot.first_position,
            # Else transformers would look for documents in the positions.
            attention_mask=torch.ones_like(batch.ids),
            use_cache=False,
        ).last_hidden_state
    return hidden[0]
