"""`tunery estimate`: what a job would be. A file of the service's is asked about there; a local one
is counted here, token by token, and goes nowhere.
"""

import math
import sys
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from tunery.base_model import context_of, read_config, shape_of
from tunery.cli.access import service
from tunery.cli.show import plain, print_json
from tunery.data.bounds import TemplateTooCostly, renderings_bounded
from tunery.data.check import check
from tunery.data.jinja import TemplateError
from tunery.data.read import read_rows
from tunery.data.rows import Fault
from tunery.data.template import ChatTokenizer
from tunery.data.tokens import MEMORY_LIMIT_BYTES
from tunery.errors import DoesNotFit, InvalidRequest
from tunery.plan import auto
from tunery.plan.choice import SEVERAL, choose
from tunery.plan.choice import least as least_bytes
from tunery.plan.memory import ADMITTED, Needs, Plan, gib
from tunery.spec import Lora, Quantization
from tunery.weights import shapes_in


def of_service(
    file_id: str,
    *,
    model: str,
    r: int | None,
    max_length: int | None,
    quantization: Quantization,
    as_json: bool = False,
) -> None:
    body: dict[str, Any] = {
        "model": model,
        "training_file": file_id,
        "lora": {"r": r} if r else {},
        "training": {"max_length": max_length, "quantization": quantization},
    }
    with service() as client:
        found = client.post("/fine_tuning/estimate", body=body, cast_to=dict[str, Any])
    if as_json:
        print_json(found)
        return
    console = plain()
    console.print(f"{found['rows']:,} rows, about {found['tokens']:,} tokens an epoch")
    show_settings(console, found["hyperparameters"], found["reasons"], found["steps"])
    for device in found["devices"]:
        memory = f", {gib(device['memory_bytes'])}" if device["memory_bytes"] else ""
        plan = Plan.model_validate(device["plan"]) if device["plan"] else None
        said = plan.in_words() if plan else device["reason"]
        console.print(f"{device['device'] or 'A worker'}{memory}: {said}{time_in_words(device)}")
    if not found["devices"]:
        console.print("No worker has connected yet, so nothing is planned.")


def of_local(
    file: Path,
    *,
    folder: Path,
    r: int | None,
    max_length: int | None,
    quantization: Quantization,
    memory_gib: float | None,
    as_json: bool = False,
) -> None:
    """Plans for a GPU with so much memory, or says how much one needs at least. As JSON: what the
    service's estimate has of it, with the `plan`, or `least_memory_bytes`.
    """
    report = check(file)
    if not report.ok:
        sys.exit(f"tunery: {report.summary()} `tunery validate {file}` lists every fault.")
    try:
        config = read_config(folder)
        shape = shape_of(config, shapes_in(folder))
        with renderings_bounded(MEMORY_LIMIT_BYTES):
            lengths = row_lengths(file, ChatTokenizer(folder), max_length or context_of(config))
    except (InvalidRequest, TemplateError, TemplateTooCostly) as error:
        sys.exit(f"tunery: {error}")
    if not lengths:
        sys.exit(f"tunery: no row of {file} has anything to train on within that length.")
    resolved = auto.resolve(
        rows=report.rows, architecture=shape.architecture, hidden_size=shape.hidden
    )
    steps = resolved.n_epochs * math.ceil(len(lengths) / resolved.batch_size)
    found = {
        "rows": report.rows,
        "tokens": sum(lengths),
        "longest_row": lengths[0],
        "hyperparameters": resolved.hyperparameters,
        "reasons": resolved.reasons,
        "steps": steps,
    }
    console = plain(as_json=as_json)
    console.print(
        f"{report.rows:,} rows, {sum(lengths):,} tokens per epoch; the median row has "
        f"{median(lengths):,.0f} tokens, the longest {lengths[0]:,}"
    )
    show_settings(console, resolved.hyperparameters, resolved.reasons, steps)
    needs = Needs(shape, "bf16", Lora(r=r) if r else Lora())
    if memory_gib is None:
        least = math.ceil(needs.least(quantization, lengths[0]) / ADMITTED)
        console.print(f"It needs a GPU with at least {tenths(least)} GiB.")
        for gpus in SEVERAL:
            each = math.ceil(least_bytes(needs, quantization, lengths[0], gpus) / ADMITTED)
            if each < least:
                console.print(f"Or {gpus} GPUs with {tenths(each)} GiB each (training.gpus).")
        if as_json:
            print_json(found | {"least_memory_bytes": least})
        return
    try:
        plan = choose(
            needs,
            quantization=quantization,
            longest=lengths[0],
            step_tokens=sum(lengths[: resolved.batch_size]),
            memory_bytes=int(memory_gib * 2**30),
        )
    except DoesNotFit as refusal:
        sys.exit(f"tunery: {refusal}")
    console.print(f"On such a GPU: {plan.in_words()}; {gib(plan.peak_bytes)} at most.")
    if as_json:
        print_json(found | {"plan": plan.model_dump(mode="json")})


def tenths(size: int) -> float:
    """In GiB, rounded up."""
    return math.ceil(10 * size / 2**30) / 10


def row_lengths(file: Path, tokenizer: ChatTokenizer, max_length: int) -> list[int]:
    """Tokens of each row that is trained on, the longest first."""
    lengths = []
    for row in read_rows(file):
        if isinstance(row, Fault):
            continue
        try:
            examples = tokenizer.encode(row, max_length)
        except TemplateError:  # such a row is left out of the training
            continue
        lengths += [len(example.ids) for example in examples if example.trained_tokens]
    return sorted(lengths, reverse=True)


def show_settings(
    console: Console, settings: dict[str, Any], reasons: dict[str, str], steps: int
) -> None:
    for name, value in settings.items():
        console.print(f"{name} {value}" + (f": {reasons[name]}" if name in reasons else ""))
    console.print(f"{steps:,} optimizer steps")


def time_in_words(device: dict[str, Any]) -> str:
    if not device["seconds"]:
        return ""
    fastest, slowest = (f"{seconds / 60:,.1f}" for seconds in device["seconds"])
    whence = "as earlier jobs took" if device["seconds_from"] == "history" else "by its data sheet"
    return f"; {fastest} to {slowest} minutes, {whence}"
