"""The engine beside another trainer, on the same rows and as many tokens a step."""

import json
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bases import (
    Kind,
    Rows,
    base_folder,
    compute,
    let_go,
    random_base,
    slot_on,
    spec_of,
)
from benchmarks.gpu.report import NO_MEMORY, TIME_IS_UP, Clock, Table, on_gpu
from benchmarks.gpu.sizes import Size
from benchmarks.gpu.steps import GIB, memory_gib, seconds_a_step
from tunery.plan.choice import choose
from tunery.plan.memory import Needs
from worker.engine.device import device_memory
from worker.settings import engine_environment

PEER = Path(__file__).with_name("peer.py")
WARM_UP, STEPS = 2, 4
# The trainers read a batch ahead, and their packs are not all full.
SPARE = 2


def compare(
    size: Size, folder: Path, name: str, *, kind: Kind, peer: str, python: Path | None
) -> None:
    """`python` runs the peer; without one only we are measured."""
    clock = Clock()
    columns = {
        "trainer": "",
        "rows": "",
        "recomputed": "",
        "tokens at once": "d",
        "ms a step": ".0f",
        "tokens a step": ".0f",
        "tokens per s": ".0f",
        "reserved GiB": ".1f",
        "note": "",
    }
    notes = (
        f"Steps of {size.step_tokens} tokens, all trained; LoRA of r 16 on all linear layers. "
        f"tunery's steps are cut as its planner chooses. {peer} packs the rows itself (best fit) "
        "into its batches of one pack. Tokens are without padding; the time is that of "
        f"{STEPS} steps after {WARM_UP}, start and end waited for."
    )
    with Table(name, f"{peer} beside tunery: {kind}", columns, notes) as table:
        for rows in size.row_kinds:
            ours(size, kind, rows, table)
        if python is None:
            why = f"not measured: no --{peer.lower()}-python names a Python that has it"
            for rows in size.row_kinds:
                table.without(peer, rows, why=why)
            return
        if peer == "Unsloth" and not on_gpu():
            table.without(peer, why="not measured: it needs a GPU")
            return
        weights = base_folder(kind.dimensions, folder)
        let_go()  # the peer is a process of its own on the same GPU
        for rows, packs, checkpointing in product(size.row_kinds, size.packs, (False, True)):
            most = size.step_tokens // packs
            known = (peer, rows, "yes" if checkpointing else "no", most)
            if clock.left < 0:
                table.without(*known, why=TIME_IS_UP)
                continue
            training = {
                "peer": peer,
                "folder": str(weights),
                "quantization": kind.quantization,
                "rows": [
                    row.ids.tolist()
                    for seed in range(WARM_UP + STEPS + SPARE)
                    for row in size.rows(rows, kind.dimensions, seed)
                ],
                "max_length": most,
                "accumulation": packs,
                "checkpointing": checkpointing,
                "warm_up": WARM_UP,
                "steps": STEPS,
                "lora": {"r": 16, "lora_alpha": 32},
            }
            measured = run(python, training, clock.left)
            if "seconds" not in measured:
                table.without(*known, why=measured["words"])
                continue
            seconds, tokens = measured["seconds"], measured["tokens"]
            reserved = measured["reserved"] and measured["reserved"] / GIB
            figures = (1e3 * seconds, tokens, tokens / seconds, reserved)
            table.row(*known, *figures, measured["words"])


def ours(size: Size, kind: Kind, rows: Rows, table: Table) -> None:
    made = size.rows(rows, kind.dimensions, seed=1)
    spec = spec_of(len(made))
    plan = choose(
        Needs.of(kind.dimensions.shape, spec, compute()),
        quantization=kind.quantization,
        longest=max(len(row.ids) for row in made),
        step_tokens=size.step_tokens,
        memory_bytes=device_memory(),
    )
    chosen = Kind(kind.dimensions, plan.quantization, plan.dequantized)
    known = ("tunery", rows, "yes" if plan.checkpointing else "no", plan.micro_tokens)
    model = random_base(chosen)
    try:
        with slot_on(model, spec, plan) as slot:
            seconds = seconds_a_step(slot, made, spec, WARM_UP, STEPS)
            reserved, _, _ = memory_gib()
    except torch.OutOfMemoryError:
        table.without(*known, why=NO_MEMORY)
        return
    tokens = size.step_tokens
    table.row(*known, 1e3 * seconds, tokens, tokens / seconds, reserved, plan.in_words())


def run(python: Path, training: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What the peer measured; `words` alone if it could not."""
    try:
        done = subprocess.run(
            [python, "-P", PEER],  # this folder has modules of its own
            input=json.dumps(training),
            capture_output=True,
            text=True,
            check=False,
            env=engine_environment() | {"TRANSFORMERS_VERBOSITY": "error"},
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return {"words": TIME_IS_UP}
    if done.returncode:
        return {"words": f"failed: {done.stderr.strip().splitlines()[-1][:200]}"}
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured
