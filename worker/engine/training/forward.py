"""What the model makes of a batch."""

from torch import Tensor
from transformers import BertForMaskedLM, PreTrainedModel, RobertaForMaskedLM
from transformers.activations import gelu

from tunery.base_model import first_position
from worker.engine.data.batches import Batch
from worker.engine.training.loss import token_nll
from worker.engine.training.slot import Slot


def score(slot: Slot, batch: Batch) -> tuple[Tensor, Tensor]:
    """(NLL in nats, whether the guess is right) at each of a batch's places; (P,) fp32 and bool."""
    model = slot.causal
    first = first_position(model.config.model_type, model.config.pad_token_id)
    hidden = model.base_model(
        input_ids=batch.ids,
        position_ids=batch.positions + first,
        documents=batch.documents,
        use_cache=False,
    ).last_hidden_state
    predicting = transformed(model, hidden[0].index_select(0, batch.places))
    head = model.get_output_embeddings()
    return token_nll(predicting, head.weight, batch.labels, head.bias)


def transformed(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """What the head's product is taken of: (P, width) both."""
    if isinstance(model, BertForMaskedLM):
        hidden = model.cls.predictions.transform(hidden)
    if isinstance(model, RobertaForMaskedLM):
        head = model.lm_head
        hidden = head.layer_norm(gelu(head.dense(hidden)))
    return hidden
