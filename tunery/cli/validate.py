"""`tunery validate FILE`: what the server would find; with `--model`, what training would see."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tunery.base_model import context_of, read_config
from tunery.cli.show import plain, print_json
from tunery.cli.wanted_template import jinja_of
from tunery.data.bounds import TemplateTooCostly, renderings_bounded
from tunery.data.check import check
from tunery.data.columns import Columns
from tunery.data.incomplete import Lines
from tunery.data.jinja import TemplateError
from tunery.data.template import ChatTokenizer, in_pieces
from tunery.data.tokens import MEMORY_LIMIT_BYTES, measure
from tunery.errors import InvalidRequest
from tunery.plan.shape import ENCODERS

SAMPLE_BYTES = 256 << 20
BAR = 40
MARKED = "bold green underline"


def run(
    file: Path,
    model: Path | None,
    *,
    max_length: int | None,
    chat_template: str | None,
    columns: Columns | None,
    as_json: bool,
) -> int:
    """The exit status: 0 for a file that can be trained on, 1 for one with faults, or of whose rows
    the model could learn nothing.
    """
    report = check(file, columns=columns).as_dict()
    if model and report["ok"]:
        report["tokens"] = tokens(file, report, model, max_length, chat_template)
    if as_json:
        print_json(report)
    else:
        console = plain()
        show_faults(console, file, report)
        if "tokens" in report:
            show_tokens(console, report["tokens"])
    return 0 if report["ok"] and report.get("tokens", {"row_tokens": True})["row_tokens"] else 1


def tokens(
    file: Path,
    report: dict[str, Any],
    model: Path,
    max_length: int | None,
    chat_template: str | None,
) -> dict[str, Any]:
    try:
        config = read_config(model)
        context = context_of(config)
        template = chat_template and jinja_of(chat_template)
        if max_length and max_length > context:
            sys.exit(f"tunery: the model takes {context:,} tokens; --max-length is at most that.")
        with renderings_bounded(MEMORY_LIMIT_BYTES):
            found = measure(
                file,
                ChatTokenizer(model, template),
                max_length=max_length or context,
                columns=report["columns"],
                rows=report["rows"],
                text_bytes=report["text_bytes"],
                encoder=config["model_type"] in ENCODERS,
                sample_bytes=SAMPLE_BYTES,
            )
    except (InvalidRequest, TemplateError, TemplateTooCostly) as error:
        sys.exit(f"tunery: {error}")
    return {"model": str(model), **found.as_dict()}


def show_faults(console: Console, file: Path | str, report: dict[str, Any]) -> None:
    for fault in report["faults"]:
        console.print(Text(f"{file}: {fault['message']}"))
    if report["fault_count"] > len(report["faults"]):
        console.print(f"… and {report['fault_count'] - len(report['faults']):,} more")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report["formats"].items())
    console.print(f"{report['rows']:,} rows ({kinds or 'none'}), {report['fault_count']:,} faults")
    roles = ", ".join(f"{count:,} from {role}" for role, count in report["roles"].items())
    if roles:
        console.print(f"{report['messages']:,} messages: {roles}")
    for warning in report["warnings"]:
        console.print(f"Warning: {warning}")


def show_tokens(console: Console, tokens: dict[str, Any]) -> None:
    """The first rows as the model will see them, trained parts marked, and what is counted."""
    limit = f"{tokens['max_length']:,} tokens"
    for row in tokens["preview"]:
        shown = Text(f"line {row['line']}: ")
        for segment in row["segments"]:
            style = MARKED if segment["trained"] else "dim"
            shown.append(printable(segment["text"]), style=style)
        console.print(shown)
    if tokens["sampled"]:
        console.print(
            f"measured on {tokens['measured_rows']:,} of {tokens['rows']:,} rows, from all parts "
            "of the file; the tokens per epoch are an estimate for all of it"
        )
    for what, (count, lines) in left_out(tokens, limit).items():
        if count:
            console.print(f"{count:,} rows {what} ({lines})")
    if tokens["in_pieces"]:
        console.print(printable(f"Warning: {in_pieces(tokens['in_pieces'])}"))
    for row in tokens["refused"]["lines"]:
        console.print(printable(f"line {row['line']}: {row['reason']}"))
    if not tokens["row_tokens"]:
        return
    console.print(
        f"{tokens['epoch_tokens']:,} tokens per epoch, {tokens['epoch_trained_tokens']:,} of them "
        "trained"
    )
    sizes = ", ".join(f"{name} {size:,}" for name, size in tokens["row_tokens"].items())
    console.print(f"tokens per row: {sizes}")
    most = max(each["rows"] for each in tokens["histogram"])
    for each in tokens["histogram"]:
        bar = "█" * -(-each["rows"] * BAR // most)
        console.print(f"{'up to':>8} {each['up_to']:>9,} {bar} {each['rows']:,}")


def printable(text: str) -> str:
    """Without what a terminal would obey: the rows may be a stranger's."""
    known = (char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
    return "".join(known)


def left_out(tokens: dict[str, Any], limit: str) -> dict[str, tuple[int, str]]:
    """What is done to rows that are not trained on as they are: how many, and the first lines."""
    found = {
        f"are longer than {limit} and are split": tokens["split"],
        f"are longer than {limit} and are cut there": tokens["cut"],
        f"are left out: they have no trainable token within {limit}": tokens["nothing_to_train"],
        "are left out: the model's template rejects them": tokens["refused"],
        "are trained answer by answer, because the template writes one differently once "
        "others follow": tokens["answer_by_answer"],
    }
    for words, lines in tokens["adapted"].items():
        found[f"are changed so that the template takes them ({words})"] = lines
    for words, lines in tokens["lost"].items():
        found[f"lose something that the template does not show ({words})"] = lines
    return {what: (each["rows"], str(Lines.reported(each))) for what, each in found.items()}
