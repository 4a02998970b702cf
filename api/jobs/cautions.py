"""What a job can be trained on and may not be meant: said before its training costs anything."""

from api.jobs.requests import CreateJob
from api.models.templates import Chosen
from api.tables import File
from tunery.data.check import FEWEST_ROWS

# One row in so many that repeats an earlier one is worth a word.
REPEATS_IN = 20
MOST_CHARACTERS = 1_000


def of_job(asked: CreateJob, model_name: str, data: dict[str, File]) -> list[str]:
    """Those of its request, and of the name that its model will have."""
    said = of_request(asked, data)
    if asked.suffix and f":{asked.suffix}:" not in model_name:
        said.append(
            f"The suffix {asked.suffix!r} has characters that a model's name cannot have: the "
            f"model will be called {model_name}."
        )
    return said


def of_request(asked: CreateJob, data: dict[str, File]) -> list[str]:
    """In sentences. `data` are the job's files by the request's fields, all of them checked."""
    training, validation = data["training_file"], data.get("validation_file")
    said = [*of_size(training, "training"), *of_repeats(training), *of_left_out(training)]
    if validation and validation.sha256 == training.sha256:
        said.append(
            f"Validation file {validation.id} and training file {training.id} have the same "
            "content. The validation loss will show how well the rows are remembered, and nothing "
            "about other rows. Validate on rows that are not trained on."
        )
    elif validation:
        said += of_size(validation, "validation")
    for place, settings in (("training", asked.training), ("lora", asked.lora)):
        said += [
            f"{place}.{name} has no effect here: {reason}."
            for name, reason in settings.without_effect.items()
        ]
    return said


def of_template(template: Chosen) -> list[str]:
    if not template.assumed:
        return []
    said = (
        f"The chat template is Alpaca's (“Below is an instruction …”): {template.reason}. Name "
        "another as training.chat_template if you do not mean that."
    )
    return [said]


def of_size(file: File, role: str) -> list[str]:
    report = file.report or {}
    rows = report["rows"]
    if rows >= FEWEST_ROWS:
        return []
    count = "1 row" if rows == 1 else f"{rows} rows"
    little = "a model learns" if role == "training" else "the validation loss tells"
    said = (
        f"The {role} file {file.id} has only {count}; {little} little from fewer than "
        f"{FEWEST_ROWS}."
    )
    return [said]


def of_left_out(file: File) -> list[str]:
    left_out = (file.report or {}).get("left_out") or {}
    if not left_out:
        return []
    names = ", ".join(f"{name} ({count:,} rows)" for name, count in left_out.items())
    more = "…" if len(names) > MOST_CHARACTERS else ""
    said = f"Left out of training file {file.id}, as no training reads it: "
    return [f"{said}{names[:MOST_CHARACTERS]}{more}."]


def of_repeats(file: File) -> list[str]:
    report = file.report or {}
    rows, found = report["rows"], report["duplicates"]
    if found["rows"] * REPEATS_IN < rows:
        return []
    repeats = f"{'' if found['complete'] else 'at least '}{found['rows']:,}"
    first, again = found["lines"][0]
    said = (
        f"Of the {rows:,} rows of training file {file.id}, {repeats} are the same as an "
        f"earlier one, such as line {again} as line {first}. Each is trained on as often as it "
        "comes; remove the copies if you do not mean that."
    )
    return [said]
