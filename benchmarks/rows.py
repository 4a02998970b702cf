"""What the engine holds and takes for a data set of very many short rows: `make bench-rows`.

Each figure is of a process of its own, above what it had with its base's tokenizer loaded.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

ENGINE = """
import hashlib, resource, sys, time
from pathlib import Path
from worker.engine import data as engine_data
from tunery.data.template import ChatTokenizer
from tunery.spec import DataFile, TrainingSpec
from worker.engine.objectives.supervised import NextToken

def mib(what):
    line = next(line for line in open("/proc/self/status") if line.startswith(what))
    return int(line.split()[1]) / 1024

path, rows, base, settings = sys.argv[1:]
tokenizer = ChatTokenizer(Path(base))
sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
file = DataFile(id="file-1", sha256=sha256, rows=int(rows))
spec = TrainingSpec.model_validate_json(settings).model_copy(update={"training_file": file})
tokenizer.tokenizer.encode("warm")
idle, began = mib("VmRSS"), time.process_time()
data = engine_data.read_data(
    "training", Path(path), file, objective=NextToken(spec), tokenizer=tokenizer,
    max_length=spec.max_length, stop_if_asked=lambda: None,
)
read = time.process_time()
held, most = mib("VmRSS") - idle, mib("VmHWM") - idle
order = engine_data.epoch_order(len(data.rows), 1, 0)
ordered = time.process_time()
print(len(data.rows), held, most, mib("VmHWM") - idle, read - began, ordered - read)
"""


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--base", type=Path, default=ROOT / "models" / "demo")
    asked = options.parse_args()
    print(
        "| rows | held MiB | at most MiB | with an epoch's order MiB | read, CPU s | order, CPU s |"
    )
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        with path.open("wb") as file:
            for number in range(asked.rows):
                file.write(b'{"text":"a%d b"}\n' % (number % 10))
        done = subprocess.run(
            [
                *(sys.executable, "-c", ENGINE),
                *(str(path), str(asked.rows), str(asked.base), json.dumps(spec(asked.base))),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    rows, *figures = done.stdout.split()
    print(f"| {int(rows):,} | {' | '.join(f'{float(figure):,.0f}' for figure in figures)} |")


def spec(base: Path) -> dict[str, object]:
    return {
        "base_model": base.name,
        "base_revision": "r1",
        "training_file": {"id": "file-1", "sha256": "0" * 64, "rows": 1},
        "seed": 1,
        "n_epochs": 1,
        "batch_size": 8,
        "learning_rate": 1e-4,
        "max_length": 256,
    }


if __name__ == "__main__":
    main()
