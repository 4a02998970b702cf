"""How an attempt ended, in the words that the API is told."""

from tunery import messages
from tunery.base_model import file_facts
from tunery.states import FailureClass
from worker import protocol
from worker.client import ApiRefused

WORKER_FAILED = "worker_failed"

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
