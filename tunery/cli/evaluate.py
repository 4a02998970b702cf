"""`tunery eval`: whether a tuned model is better than its base on rows of a local file."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import yaml
from openai import OpenAI
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from tunery.cli.access import service
from tunery.cli.show import plain, print_json
from tunery.data.columns import Columns
from tunery.data.lines import row_of
from tunery.data.read import read_records
from tunery.data.rows import Fault, Row, Text
from tunery.grading.grade import Grade, Reply, grade, messages_to, trouble_of
from tunery.grading.graders import Grader, LabelModel, ScoreModel, judges_of
from tunery.grading.rows import asked_of, prompt_of
from tunery.grading.templates import NoJson, NoSuchValue, Sample
from tunery.grading.verdict import Verdict, verdict_of

AT_ONCE = 4
SHOWN_ROWS = 5
SHOWN_CHARACTERS = 200
JUDGE_TOKENS = 512
GRADER: TypeAdapter[Grader] = TypeAdapter(Grader)

Answered = dict[str, Any]


def settings_of(path: Path) -> dict[str, Any]:
    """A job's `evaluation` from a file of JSON or YAML, which may hold the grader alone."""
    try:
        found = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        sys.exit(f"tunery: {path} is neither JSON nor YAML: {error}")
    if not isinstance(found, dict):
        sys.exit(f"tunery: {path} holds no grader.")
    return {"grader": found} if "type" in found else found


def grader_in(path: Path) -> Grader:
    try:
        return GRADER.validate_python(settings_of(path).get("grader"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        sys.exit(f"tunery: {path} holds no grader that can be used: {where}: {first['msg']}")


def run(
    name: str,
    *,
    data: Path,
    grader: Path,
    base: str | None,
    rows: int,
    max_tokens: int,
    columns: Columns | None,
    as_json: bool,
) -> None:
    """Exits with an error if the tuned model is worse."""
    wanted, console = grader_in(grader), plain(as_json=as_json)
    asked = list(rows_in(data, rows, columns))
    with service() as client:
        tuned, base = models_of(client, name, base)
        console.print(f"{base} and {tuned} answer {len(asked)} rows of {data.name}")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            each = [
                pool.submit(compared, client, wanted, (base, tuned), row, own, max_tokens)
                for row, own in asked
            ]
            answers = [one.result() for one in each]
    verdict = verdict_of(
        [answer["base_score"] for answer in answers], [answer["tuned_score"] for answer in answers]
    )
    if as_json:
        print_json({**verdict.model_dump(mode="json"), "answers": answers})
    else:
        show(console, verdict, answers)
    if verdict.verdict == "worse":
        sys.exit(f"tunery: {tuned} is worse than {base} on these rows.")


def rows_in(path: Path, most: int, columns: Columns | None) -> Iterator[tuple[Row, dict[str, Any]]]:
    """The first rows, each with its own fields. Exits with an error at a faulty one."""
    found = 0
    for line, record in read_records(path, columns=columns):
        if found == most or (isinstance(record, bytes) and record.isspace()):
            continue
        row = row_of(line, record, columns)
        own = orjson.loads(record) if isinstance(record, bytes) else record
        if isinstance(row, Fault) or isinstance(own, Fault):
            sys.exit(f"tunery: {row}")
        if isinstance(row, Text):
            sys.exit(f"tunery: {path} holds texts, which have no answer to grade.")
        found += 1
        yield row, own
    if not found:
        sys.exit(f"tunery: {path} has no rows.")


def models_of(client: OpenAI, name: str, base: str | None) -> tuple[str, str]:
    """(the tuned model, what it is compared with: what it was made from)."""
    if name.startswith("ftjob-"):
        job = client.fine_tuning.jobs.retrieve(name)
        if job.fine_tuned_model is None:
            sys.exit(f"tunery: job {name} is {job.status} and has no model to ask.")
        name = job.fine_tuned_model
    lineage = client.models.retrieve(name).model_extra or {}
    base = base or lineage.get("went_on_from") or lineage.get("base_model")
    if not base:
        sys.exit(f"tunery: {name} is no tuned model. Name what to compare it with: --base MODEL.")
    return name, base


def compared(
    client: OpenAI,
    grader: Grader,
    models: tuple[str, str],
    row: Row,
    own: dict[str, Any],
    max_tokens: int,
) -> Answered:
    item, said = asked_of(row)
    item = own | item
    first, last = (answer(client, model, row, max_tokens) for model in models)
    before, now = (graded(client, grader, item, sample) for sample in (first, last))
    return {
        "line": row.line,
        "prompt": said,
        "base": first.text,
        "tuned": last.text,
        "base_score": before.reward,
        "tuned_score": now.reward,
        "trouble": trouble_of(before, now),
    }


def answer(client: OpenAI, model: str, row: Row, max_tokens: int) -> Sample:
    asked = prompt_of(row)
    if asked.type == "text":
        text = client.completions.create(
            model=model, prompt=asked.text or "", max_tokens=max_tokens, temperature=0
        )
        return Sample(text.choices[0].text)
    body: dict[str, Any] = {"messages": asked.messages, "max_tokens": max_tokens}
    if asked.tools:
        body["tools"] = asked.tools
    chat = client.chat.completions.create(model=model, temperature=0, **body)
    said = chat.choices[0].message
    calls = [call.model_dump() for call in said.tool_calls or ()]
    return Sample(said.content or "", calls)


def graded(client: OpenAI, grader: Grader, item: dict[str, Any], sample: Sample) -> Grade:
    replies = {}
    for name, judge in judges_of(grader).items():
        try:
            replies[name] = ask(client, judge, messages_to(judge, item, sample))
        except (NoSuchValue, NoJson):
            continue
    try:
        return grade(grader, item, sample, replies)
    except ImportError as error:
        sys.exit(f"tunery: {error}. A json_schema grader needs it: pip install jsonschema-rs.")


def ask(client: OpenAI, judge: ScoreModel | LabelModel, messages: list[Any]) -> Reply:
    params = judge.sampling_params
    given: dict[str, Any] = {"seed": params.seed, "top_p": params.top_p}
    said = client.chat.completions.create(
        model=judge.model,
        messages=messages,
        temperature=params.temperature or 0,
        max_tokens=params.max_completions_tokens or JUDGE_TOKENS,
        **{name: value for name, value in given.items() if value is not None},
    )
    return Reply(judge.model, said.choices[0].message.content or "")


def show(console: Console, verdict: Verdict, answers: list[Answered]) -> None:
    console.print(verdict.sentence[0].upper() + verdict.sentence[1:])
    if verdict.warning:
        console.print(f"Warning: {verdict.warning}")
    troubles = [each["trouble"] for each in answers if each["trouble"]]
    if troubles:
        console.print(f"Warning: {len(troubles)} rows could not be graded: {troubles[0]}")
    lost = [each for each in answers if each["tuned_score"] < each["base_score"]]
    lost.sort(key=lambda each: each["tuned_score"] - each["base_score"])
    for each in lost[:SHOWN_ROWS]:
        scores = f"{each['base_score']:.2f} -> {each['tuned_score']:.2f}"
        console.print(f"\nWorse at line {each['line']} ({scores}): {short(each['prompt'])}")
        console.print(f"  base   {short(each['base'])}")
        console.print(f"  tuned  {short(each['tuned'])}")


def short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 2]} …"
