"""Experts as a base's files have them: often each expert's matrix for itself, under names that
transformers 5 makes one parameter of when it loads them.
"""

from collections.abc import Callable, Mapping

from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from tunery.weights import LAYER

# Files often have the matrices of a layer's experts in turns.
KEPT = 2


class ExpertsInFiles:
    """`plain` is the model as transformers makes it, on the meta device. `parameters` are some of
    it by name, each with what gives its values.
    """

    def __init__(
        self, plain: PreTrainedModel, parameters: Mapping[str, Callable[[], Tensor]]
    ) -> None:
        self.plain, self.parameters = plain, parameters
        self.kept: dict[str, dict[str, Tensor]] = {}
        self.unseen = set(parameters)
        self.holders = {
            filed: name
            for name in parameters
            for filed in self.as_filed(name, plain.get_parameter(name))
        }

    def value(self, name: str) -> Tensor | None:
        """What a tensor in the files holds, if it is a part of one of the parameters."""
        holder = self.holders.get(in_block(name))
        if holder is None:
            return None
        self.unseen.discard(holder)
        if holder not in self.kept:
            if len(self.kept) == KEPT:
                del self.kept[next(iter(self.kept))]
            self.kept[holder] = self.as_filed(holder, self.parameters[holder]())
        return self.kept[holder][in_block(name)]

    def as_filed(self, name: str, values: Tensor) -> dict[str, Tensor]:
        """By the names in a block; some files have what transformers has."""
        parts: dict[str, Tensor] = revert_weight_conversion(self.plain, {name: values})
        return {in_block(name): values} | {in_block(each): part for each, part in parts.items()}


def in_block(name: str) -> str:
    """From the layer's number on: what is before it differs between files and models."""
    found = LAYER.search(name)
    return name[found.start() :].lstrip(".") if found else name
