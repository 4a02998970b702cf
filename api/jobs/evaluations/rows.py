"""What an evaluation needs of a job and of its rows."""

from sqlalchemy.orm import Session

from api.jobs.evaluations.graders import require_judges, require_usable
from api.jobs.requests import CreateJob
from api.tables import File
from tunery.errors import InvalidRequest
from tunery.grading.graders import fields_of

# The fields of an item by the format of its row; the answer is always the reference.
FIELDS = {
    "chat": {"messages", "tools", "parallel_tool_calls", "reference_tool_calls"},
    "completion": {"prompt", "completion"},
    "preference": {"messages", "input", "rejected", "reference_tool_calls"},
}
REFERENCE = "reference"


def refuse_evaluation(tx: Session, asked: CreateJob) -> None:
    """Raises:
    InvalidRequest: the job's settings leave no room for it.
    NotFound: this project has no such judge.

    """
    if asked.evaluation is None:
        return
    if asked.method_type == "masked_lm":
        raise InvalidRequest(
            "An encoder answers nothing that could be graded. Leave evaluation out; the loss on a "
            "validation_file says how well it has learnt.",
            param="evaluation",
        )
    if not asked.validation_file and not asked.training.validation_split:
        raise InvalidRequest(
            "An evaluation needs rows that are not trained on. Give a validation_file, or set "
            "training.validation_split, such as 0.1.",
            param="evaluation",
        )
    require_usable(asked.evaluation.grader, param="evaluation.grader")
    require_judges(tx, asked.evaluation.grader, param="evaluation.grader")


def refuse_unread(file: File, asked: CreateJob) -> None:
    """Raises `InvalidRequest` for a grader that reads what no row of the file has, as far as its
    report tells.
    """
    report = file.report or {}
    formats = set(report.get("formats", ()))
    if asked.evaluation is None or not formats:
        return
    if "text" in formats:
        raise InvalidRequest(
            f"File {file.id} holds texts, which have no answer to grade. Give chats or prompts "
            "with completions, or leave evaluation out.",
            param="evaluation",
        )
    if not formats <= FIELDS.keys():  # those of other spellings are not listed
        return
    known = {REFERENCE, *(name for each in formats for name in FIELDS[each])}
    known |= {*report.get("left_out", ()), *(file.columns or {}).values()}
    for name in fields_of(asked.evaluation.grader):
        if name not in known:
            raise InvalidRequest(
                f"evaluation.grader reads item.{name}, which no row of {file.id} has. A row has "
                f"{', '.join(sorted(known))}.",
                param="evaluation.grader",
            )
