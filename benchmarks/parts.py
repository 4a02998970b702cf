"""`python -m benchmarks.parts`: what norms and rotary positions in fewer passes save on a CPU.
Steps with them and with transformers' own in turns, on the demo base and on the wide one.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from benchmarks.wide_base import DEMO
from tunery.plan.memory import Plan
from worker.engine.data.batches import Batch
from worker.engine.data.rows import TokenRow
from worker.engine.kernels import chosen
from worker.engine.kernels.parts import fused_parts
from worker.engine.model.attention import DOCUMENTS
from worker.engine.model.lora import fuse
from worker.engine.training.forward import score
from worker.engine.training.slot import Slot, trained_parameters, with_adapter

ROWS, ROW_TOKENS, TURNS = 8, 52, 60


def main() -> None:
    torch.set_num_threads(1)
    sys.stdout.write(
        f"{ROWS * ROW_TOKENS} tokens a step, {TURNS} turns, 1 thread, torch {torch.__version__}\n\n"
        "| base | transformers' own, CPU ms | in fewer passes | ratio |\n|---|---|---|---|\n"
    )
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-m", "benchmarks.wide_base", place], check=True)
        for name, folder in (("demo", DEMO), ("wide", Path(place))):
            plain, fewer = map(statistics.median, measured(folder))
            ratio = fewer / plain
            sys.stdout.write(
                f"| {name} | {1000 * plain:.1f} | {1000 * fewer:.1f} | {ratio:.3f} |\n"
            )


def measured(folder: Path) -> tuple[list[float], list[float]]:
    """CPU seconds of each step: with transformers' own, and in fewer passes."""
    slot = adapted(folder)
    weights: Any = slot.causal.get_input_embeddings().weight
    parts = chosen.parts_of(weights)
    numbers = torch.Generator().manual_seed(1)
    trained = torch.arange(ROW_TOKENS) >= ROW_TOKENS // 2
    rows = [
        TokenRow(line, torch.randint(5, 4000, (ROW_TOKENS,), generator=numbers).int(), trained)
        for line in range(1, ROWS + 1)
    ]
    batch = Batch.of(rows, torch.device("cpu"))
    for kernels in ((), parts):
        step(slot, batch, kernels)
    turns = [[step(slot, batch, kernels) for kernels in ((), parts)] for _ in range(TURNS)]
    plain, fewer = map(list, zip(*turns, strict=True))
    return plain, fewer


def adapted(folder: Path) -> Slot:
    base = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation=DOCUMENTS, dtype=torch.float32
    )
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=16, lora_alpha=32)
    model = with_adapter(base, lora)
    fuse(model)
    optimizer = torch.optim.AdamW(trained_parameters(model).values(), fused=True)
    plan = Plan(
        quantization="none", dequantized=False, checkpointing=False, micro_tokens=512, peak_bytes=0
    )
    return Slot(model, optimizer, plan)


def step(slot: Slot, batch: Batch, kernels: Sequence[ModuleType]) -> float:
    with fused_parts(slot.causal, kernels):
        began = time.process_time()
        losses, _ = score(slot, batch)
        torch.autograd.backward(losses.mean())
        slot.optimizer.step()
        slot.optimizer.zero_grad()
        return time.process_time() - began


if __name__ == "__main__":
    main()
