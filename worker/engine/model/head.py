"""From hidden states to logits as the family does it: with its scales, caps and transforms."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from worker.engine.errors import Unsupported

PROBES, LARGE_LOGIT = 4, 1000.0


def recomputable(body: torch.nn.Module) -> list[GradientCheckpointingLayer]:
    """Its layers in order, each of which can be computed again for itself."""
    return [each for each in body.modules() if isinstance(each, GradientCheckpointingLayer)]


class Hidden(BaseModelOutput):
    """What a body gives, of which there is `last_hidden_state` alone."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


class Head:
    """What a model does with the hidden states of its `body`. That is the outermost model in it
    which it asks for them, or in one for images too the language model in that. `plain`: their
    product with the output embeddings, and nothing else.

    Raises:
        Unsupported: it is no model of a body and a head.

    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.weights: Any = model.get_output_embeddings()
        if self.weights is None:
            raise Unsupported("it has no head over its vocabulary")
        text = type(model.config.get_text_config())
        inside = [each for each in model.modules() if isinstance(each, PreTrainedModel)]
        for asked in inside[1:]:
            self.asked: Any = asked
            if self.is_asked():
                break
        else:
            raise Unsupported("its head does not take hidden states from a model of their own")
        within = (each for each in asked.modules() if isinstance(each, PreTrainedModel))
        self.body: Any = next((each for each in within if type(each.config) is text), asked)
        self.plain = self.is_product()

    def logits(self, hidden: Tensor) -> Tensor:
        """(P, vocabulary) of hidden states (P, width), by the model's own forward."""
        with self.saying(hidden[None]):
            ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits[0]
        return logits

    @torch.no_grad()
    def is_asked(self) -> bool:
        """Whether logits come of what `asked` says."""
        weight = self.weights.weight
        ids = torch.zeros(1, 1, dtype=torch.long, device=weight.device)
        with self.saying(weight[None, :1]) as asked:
            try:
                logits = self.model(input_ids=ids, use_cache=False).logits
            except (AttributeError, TypeError):  # it wants more of it than hidden states
                return False
        return bool(asked) and logits.shape == (1, 1, len(weight))

    @contextmanager
    def saying(self, hidden: Tensor) -> Iterator[list[bool]]:
        """In it the body gives these hidden states, and it is noted that it was asked."""
        asked: list[bool] = []

        def say(*_: object, **__: object) -> Hidden:
            asked.append(True)
            return Hidden(last_hidden_state=hidden)

        before = vars(self.asked).get("forward")
        self.asked.forward = say
        try:
            yield asked
        finally:
            del self.asked.forward
            if before is not None:
                self.asked.forward = before

    @torch.no_grad()
    def is_product(self) -> bool:
        """Whether it is, of hidden states whose logits are so large that a soft cap shows."""
        weight, bias = self.weights.weight, self.weights.bias
        if weight.is_meta:  # it has no values
            return False
        numbers = torch.Generator().manual_seed(1)
        hidden = torch.randn(PROBES, weight.shape[1], generator=numbers).to(weight)
        hidden *= LARGE_LOGIT / (hidden @ weight.T).abs().max().clamp(min=1e-6)
        product = hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)
        off = (self.logits(hidden).to(product.dtype) - product).abs().max()
        return bool(off < 0.01 * LARGE_LOGIT)

    @property
    def is_trained(self) -> bool:
        inside = {id(parameter) for parameter in self.asked.parameters()}
        others = (each for each in self.model.parameters() if id(each) not in inside)
        return self.weights.weight.requires_grad or any(each.requires_grad for each in others)
