"""`tunery status JOB`: one job, followed to its end."""

import sys
from typing import Any

from openai.types.fine_tuning import FineTuningJob

from tunery.cli.access import service
from tunery.cli.show import plain, print_json
from tunery.cli.watch import extras_of, follow
from tunery.grading.verdict import Verdict


def follow_to_end(job_id: str, *, as_json: bool = False) -> None:
    """Exits with an error unless the job succeeds."""
    with service() as client:
        job = follow(client, job_id, plain(as_json=as_json))
    show_end(job, as_json=as_json)


def show_end(job: FineTuningJob, *, as_json: bool = False) -> None:
    if as_json:
        print_json(job.model_dump(mode="json"))
    else:
        plain().print(f"{job.id} {job.status}")
    if job.status != "succeeded":
        sys.exit(f"tunery: {job.error.message}" if job.error else 1)
    console = plain(as_json=as_json)
    console.print(f"model {job.fine_tuned_model}")
    if line := evaluation_line(extras_of(job).get("evaluation")):
        console.print(line)
    method: str = job.method.type if job.method else "supervised"
    if method != "masked_lm":  # an encoder does not answer
        console.print(f"Ask it: tunery chat {job.fine_tuned_model} --vs")


def evaluation_line(found: dict[str, Any] | None) -> str | None:
    """Whether the tuned model is better than its base, if that was asked for."""
    if found is None:
        return None
    if found.get("rows") is None:
        why = f" ({found['warning']})" if found.get("warning") else ""
        return f"evaluation {found['verdict']}{why}"
    return f"evaluation {Verdict.model_validate(found).sentence}"
