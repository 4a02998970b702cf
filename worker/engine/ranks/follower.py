"""A process of a training that is not the first: it computes its part, and says nothing."""

import logging

from tunery.errors import DoesNotFit
from worker.engine.alone import taken_by_another
from worker.engine.device import unusable
from worker.engine.errors import (
    BaseDiffers,
    BaseRefused,
    CheckpointRefused,
    RankLost,
    StopAsked,
    Untrainable,
)
from worker.engine.model.base import WarmBase
from worker.engine.ranks import together
from worker.engine.train import train
from worker.protocol import Report, Train

log = logging.getLogger(__name__)

# What the first process finds too, and reports.
TOLD = (Untrainable, DoesNotFit, BaseDiffers, BaseRefused, CheckpointRefused, RankLost)


def follow() -> None:
    """Trains the one order that the first process is given. What ends this process alone is raised,
    and torchrun ends all.
    """
    if together.any_of(unusable() or taken_by_another()) is not None:
        return
    order = Train.model_validate_json(together.told(""))
    try:
        train(order, WarmBase(), keep_quiet, go_on)
    except StopAsked:
        return
    except TOLD as error:
        log.warning("One of the training's processes ends: %s", error)


def keep_quiet(_: Report) -> None:
    """The first process reports."""


def go_on() -> None:
    """The first process is asked to stop, and says so where all meet."""
