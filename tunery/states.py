"""The states of a job, a file and an upload, and who may move them. Pure: no I/O.

Words follow OpenAI's fine-tuning API where it has one.
"""

from enum import StrEnum


class JobState(StrEnum):
    """What is. Moved only along `TRANSITIONS`; the last three never change."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return not TRANSITIONS[self]


class DesiredState(StrEnum):
    """What the user wants. A running job learns of it in the answer to its heartbeat."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class FileState(StrEnum):
    UPLOADED = "uploaded"  # stored; its check is still running
    PROCESSED = "processed"
    ERROR = "error"  # stored; its report names the faults


class UploadState(StrEnum):
    """Of a file that comes in parts. The last three never change."""

    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class FailureClass(StrEnum):
    """Why an attempt ended badly. Decides whether the same job is tried again."""

    USER = "user"  # data or settings: never tried again
    INFRA = "infra"  # the machine: tried again, up to `MAX_INFRA_FAILURES` times in a job's life
    OOM = "oom"  # out of memory: tried again once
    BASE = "base"  # the base model: the job waits for another worker, or for the base's repair
    PREEMPTED = "preempted"  # ended from outside: tried again, see `MAX_INTERRUPTIONS`
    POISONED = "poisoned"  # `MAX_IDLE_ATTEMPTS` attempts in a row without a newer checkpoint
    AWAY = "away"  # storage or the API was not there: tried again for `MAX_AWAY_SECONDS`, for free
    STORAGE = "storage"  # stored bytes are proven gone or damaged: never tried again


class AttemptEnd(StrEnum):
    """How one claim of a job ended. The last two cost the job nothing."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    LOST = "lost"  # its worker was not heard of for a whole lease
    RELEASED = "released"  # its worker was shutting down or drained


class WorkerState(StrEnum):
    ACTIVE = "active"
    DRAINING = "draining"  # an operator wants it to take no more jobs


MAX_IDLE_ATTEMPTS = 3
# In a row without a newer checkpoint: engines ended from outside, and workers lost.
MAX_INTERRUPTIONS = 20
MAX_INFRA_FAILURES = 10
MAX_OOM_FAILURES = 2
# An outage over a night must cost nobody a job; one that a worker meets for longer is no outage.
MAX_AWAY_SECONDS = 24 * 3600.0

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    # files checked | checked while to be paused | a file has faults | the user cancels
    JobState.VALIDATING_FILES: frozenset(
        {JobState.QUEUED, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}
    ),
    # a worker claims it | the user pauses | the user cancels
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.CANCELLED}),
    # published | failed for good | the worker saw the cancel, or the pause | released or rescued
    JobState.RUNNING: frozenset(
        {
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.CANCELLED,
            JobState.PAUSED,
            JobState.QUEUED,
        }
    ),
    # the user resumes | the user cancels
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
UNFINISHED = [state for state in JobState if not state.terminal]
