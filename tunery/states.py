"""The states of a job and of a file, and who may move them. Pure: no I/O.

Words follow OpenAI's fine-tuning API where it has one.
"""

from enum import StrEnum


class JobState(StrEnum):
    """What is. Moved only along `TRANSITIONS`; the last three never change."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return not TRANSITIONS[self]


class DesiredState(StrEnum):
    """What the user wants. A running job learns of it in the answer to its heartbeat."""

    RUN = "run"
    CANCEL = "cancel"


class FileState(StrEnum):
    UPLOADED = "uploaded"  # stored; its check is still running
    PROCESSED = "processed"
    ERROR = "error"  # stored; its report names the faults


class FailureClass(StrEnum):
    """Why an attempt ended badly. Decides whether the same job is tried again."""

    USER = "user"  # data or settings: never tried again
    INFRA = "infra"  # the machine: tried again
    POISONED = "poisoned"  # `MAX_IDLE_ATTEMPTS` attempts in a row without a newer checkpoint


MAX_IDLE_ATTEMPTS = 3

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    # files checked | a file has faults | the user cancels
    JobState.VALIDATING_FILES: frozenset({JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    # a worker claims it | the user cancels
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    # published | failed for good | the worker saw the cancel | released or rescued
    JobState.RUNNING: frozenset(
        {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.QUEUED}
    ),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
