"""What the model makes of a batch."""

from torch import Tensor

from worker.engine.data import Batch
from worker.engine.loss import token_nll
from worker.engine.slot import Slot


def score(slot: Slot, batch: Batch) -> tuple[Tensor, Tensor]:
    """(NLL in nats, whether the guess is right) at each of a batch's places; (P,) fp32 and bool."""
    hidden = slot.causal.get_decoder()(
        input_ids=batch.ids,
        position_ids=batch.positions,
        documents=batch.documents,
        use_cache=False,
    ).last_hidden_state
    predicting = hidden[0].index_select(0, batch.places)
    return token_nll(predicting, slot.causal.get_output_embeddings().weight, batch.labels)
