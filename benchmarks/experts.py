"""`python -m benchmarks.experts`: a mixture of experts in NF4, with its experts and without: what
it takes in memory, at most while it is loaded, and of the CPU. Each in a process of its own.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.families.experts import folder_with
from worker.engine.model import quantized
from worker.engine.model.base import load, read_folder

TINY = Path(__file__).parents[1] / "models" / "tiny"
# 109 million parameters, of which 101 million are experts'.
SIZES: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "moe_intermediate_size": 256,
    "num_experts": 32,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 1024,
    "max_position_embeddings": 2048,
    "pad_token_id": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
TOKENS, STEPS = 512, 3
DIGITS = {"model": 0, "most": 0, "loaded": 1, "step": 2}
HOW = {
    "linear layers alone, as bitsandbytes does": False,
    "experts too, quantized for the first time": True,
    "experts too, from the copy": True,
}


def main() -> None:
    if len(sys.argv) > 1:
        _, path, copies, experts = sys.argv
        took = measured(Path(path), Path(copies), experts=experts == "True")
        sys.stdout.write(json.dumps(took))
        return
    write = sys.stdout.write
    write("| in NF4 | model, MB | most while loading, MB | loading, CPU s | a step, CPU s |\n")
    write("|---|---|---|---|---|\n")
    with tempfile.TemporaryDirectory() as place:
        base = Path(place) / "base"
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **SIZES))
        made.to(torch.bfloat16).save_pretrained(base)
        folder_with(TINY, Path(place))(base)
        for name, with_them in HOW.items():
            folder = Path(place) / f"copies-{with_them}"
            folder.mkdir(exist_ok=True)
            command = [
                sys.executable,
                "-m",
                "benchmarks.experts",
                str(base),
                str(folder),
                str(experts),
            ]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            took = json.loads(out)
            cells = (f"{took[each]:.{digits}f}" for each, digits in DIGITS.items())
            write(f"| {name} | {' | '.join(cells)} |\n")


def measured(base: Path, copies: Path, *, experts: bool) -> dict[str, float]:
    folder = read_folder(base, "r1", copies)
    watch = Watch()
    watch.start()
    began = time.process_time()
    if experts:
        model = load(folder, "nf4", dequantized=False).model
    else:
        with patch.object(quantized, "with_experts", lambda: patch.dict({})):
            model = load(folder, "nf4", dequantized=False).model
    loaded = time.process_time() - began
    most = watch.most()
    seconds = []
    for _ in range(STEPS):
        began = time.process_time()
        ids = torch.arange(TOKENS)[None] % SIZES["vocab_size"]
        states = model.get_input_embeddings()(ids).detach().requires_grad_()
        model(inputs_embeds=states, use_cache=False).logits.logsumexp(-1).sum().backward()
        seconds.append(time.process_time() - began)
    return {
        "model": sum(each.nbytes for each in model.state_dict().values()) / 1e6,
        "most": most / 1e6,
        "loaded": loaded,
        "step": sorted(seconds)[STEPS // 2],
    }


class Watch(Thread):
    """Of this process's memory that is no file's, in bytes, beyond what it has now."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.peak = self.now()
        self.done = False

    def now(self) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024

    def run(self) -> None:
        while not self.done:
            self.peak = max(self.peak, self.now())
            time.sleep(0.002)

    def most(self) -> int:
        self.done = True
        self.join()
        return max(self.peak, self.now()) - self.before


if __name__ == "__main__":
    main()
