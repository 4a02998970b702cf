"""How an attempt ended, in the words that the API is told."""

from tunery import messages
from tunery.base_model import file_facts
from tunery.states import FailureClass
from worker import protocol
from worker.client import ApiRefused
from worker.warm_engine import EngineDied

WORKER_FAILED = "worker_failed"

LOWER = "Lower training.max_length or lora.r, or choose a smaller base model."
BESIDE_ANSWERS = (
    "It had also answered questions to models; on this worker the job's next attempt has the "
    "engine for itself."
)

Made = messages.Succeeded | messages.Exported
Result = Made | messages.Failed | messages.Released


def is_infra(result: Result) -> bool:
    return isinstance(result, messages.Failed) and result.failure_class is FailureClass.INFRA


def code_of(error: Exception) -> str:
    return messages.API_REFUSED if isinstance(error, ApiRefused) else WORKER_FAILED


def failed(
    message: str,
    code: str = WORKER_FAILED,
    log_tail: str = "",
    phase: messages.Phase | None = None,
    failure_class: FailureClass = FailureClass.INFRA,
) -> messages.Failed:
    return messages.Failed(
        failure_class=failure_class,
        code=code,
        message=message,
        log_tail=log_tail,
        phase=phase,
    )


def results_of(finished: protocol.Finished) -> Made:
    files = [file_facts(path) for path in sorted(finished.folder.iterdir())]
    if finished.metrics_csv is None or finished.trained_tokens is None:
        return messages.Exported(files=files)
    return messages.Succeeded(
        trained_tokens=finished.trained_tokens,
        files=files,
        metrics_csv=finished.metrics_csv.name,
    )


def of_death(died: EngineDied, failed: messages.Failed) -> messages.Failed:
    """What its engine's death says of an attempt."""
    if died.for_memory:
        oom = {"failure_class": FailureClass.OOM, "code": "out_of_memory"}
        return failed.model_copy(update=oom | {"message": f"{died} {LOWER}"})
    if died.from_outside:
        return failed.model_copy(update={"failure_class": FailureClass.PREEMPTED})
    return failed


def beside_answers(failed: messages.Failed) -> messages.Failed:
    """What an answer may have done is no fault of the job, nor of the machine."""
    message = f"{failed.message} {BESIDE_ANSWERS}"
    return failed.model_copy(update={"failure_class": FailureClass.PREEMPTED, "message": message})
