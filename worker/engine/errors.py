"""How an attempt ends before its last step."""

NOT_FINITE = "loss_not_finite"


class Untrainable(Exception):
    """The data or the settings cannot be trained, on any machine. The message says how to fix it;
    `code` is a word for programs.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class StopAsked(Exception):
    """The attempt is to end now; with `checkpoint`, so that another goes on where it stands."""

    def __init__(self, *, checkpoint: bool) -> None:
        super().__init__()
        self.checkpoint = checkpoint


class RankLost(Exception):
    """The training is one of several processes, of which another is gone or has failed."""


class DiskFull(Exception):
    """There is no room for what is to be written. The message is a clause, not a sentence."""


class BaseDiffers(Exception):
    """The machine does not have the base model as it was registered."""


class BaseRefused(Exception):
    """The base model's folder is as it was registered, and not one that is loaded here."""


class Unsupported(Exception):
    """The model computes in a way that is not known here. The message is a clause whose subject is
    the model.
    """


class MemoryDamaged(Exception):
    """What lies in memory is not what was loaded."""


class CheckpointRefused(Exception):
    """The checkpoint is damaged, or belongs to another training."""


class AdapterRefused(Exception):
    """Weights that do not belong on this model. The message is a clause, not a sentence."""
