"""Which chat template writes a file's chats for a model."""

from collections.abc import Collection
from typing import NamedTuple

from api.tables import BaseModel
from tunery.data.named_templates import ALPACA, template_of


class Chosen(NamedTuple):
    """A template in Jinja, or None: the base's own, if it has one. `reason` says why it is not."""

    template: str | None = None
    reason: str | None = None
    assumed: bool = False


def chosen(
    base: BaseModel, formats: Collection[str], asked: str | None, tuned: str | None
) -> Chosen:
    """What was asked for, that of the model that is gone on from, the one that an operator gave the
    base, the base's own; and for Alpaca's rows Alpaca's, where there is none.
    """
    if asked:
        return Chosen(template_of(asked))
    if tuned:
        return Chosen(tuned, "the model that the training goes on from has it")
    if base.chat_template:
        return Chosen(base.chat_template, f"{base.id} is registered with it")
    if not base.has_chat_template and set(formats) == {"alpaca"}:
        why = f"{base.id} has none, and the rows are Alpaca's, which has a prompt of its own"
        return Chosen(ALPACA, why, assumed=True)
    return Chosen()
