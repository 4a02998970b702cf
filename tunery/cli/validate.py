"""`tunery validate FILE`: what the server would find; with `--model`, what training would see."""

from pathlib import Path
from statistics import median

from rich.console import Console
from rich.text import Text

from tunery.base_model import read_config
from tunery.data.check import MAX_FAULTS, check
from tunery.data.read import read_rows
from tunery.data.rows import Fault
from tunery.data.template import ChatTokenizer, Example, TemplateError
from tunery.errors import InvalidRequest

PREVIEWED = 2


def run(file: Path, model: Path | None) -> int:
    """The exit status: 0 for a file that can be trained on, 1 for one with faults."""
    console = Console(highlight=False, soft_wrap=True)
    report = check(file)
    for fault in report.faults:
        console.print(Text(f"{file}: {fault}"))
    if report.fault_count > MAX_FAULTS:
        console.print(f"… and {report.fault_count - MAX_FAULTS:,} more")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.formats.items())
    console.print(f"{report.rows:,} rows ({kinds or 'none'}), {report.fault_count:,} faults")
    if report.ok and model:
        return show_tokens(console, file, model)
    return 0 if report.ok else 1


def show_tokens(console: Console, file: Path, model: Path) -> int:
    """Token counts, and the first rows as the model will see them, trained tokens marked."""
    try:
        context = int(read_config(model)["max_position_embeddings"])
        tokenizer = ChatTokenizer(model)
    except (InvalidRequest, TemplateError) as error:
        console.print(Text(str(error)))
        return 1
    lengths: list[int] = []
    trained = cut = left_out = 0
    for row in read_rows(file):
        if isinstance(row, Fault):
            continue
        try:
            example = tokenizer.encode(row, context)
        except TemplateError as error:
            console.print(Text(f"{file}: line {row.line}: {error}"))
            left_out += 1
            continue
        if example.trained_tokens == 0:
            left_out += 1
            continue
        if len(lengths) < PREVIEWED:
            preview(console, tokenizer, example)
        lengths.append(example.tokens)
        trained += example.trained_tokens
        cut += example.cut
    if left_out:
        console.print(
            f"{left_out:,} rows are left out: the template refuses them, or nothing of an answer "
            f"is within the context of {context:,} tokens"
        )
    if not lengths:
        return 1
    console.print(
        f"{sum(lengths):,} tokens, {trained:,} of them trained; a row has {median(lengths):,.0f} "
        f"in the middle and {max(lengths):,} at most"
    )
    if cut:
        console.print(
            f"{cut:,} rows are longer than the context of {context:,} tokens and are cut there"
        )
    return 0


def preview(console: Console, tokenizer: ChatTokenizer, example: Example) -> None:
    shown = Text(f"line {example.line}: ")
    for id_, trained in zip(example.ids, example.mask, strict=True):
        token = tokenizer.tokenizer.decode([id_], skip_special_tokens=False)
        shown.append(token, style="bold green underline" if trained else "dim")
    console.print(shown)
