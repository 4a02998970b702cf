"""What a check of a data set costs beside decoding it: `make bench-check`.

Chats of about 2 KB a row, made on the spot from a seed, or a file of yours. Each arm is a process
of its own and reads the same lines; they take turns. Figures are CPU seconds (user and system) of
the whole process, its start included, and the most memory it had at once.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
REPEATS = 3

BARE = """
import sys
with open(sys.argv[1], "rb", buffering=1 << 18) as file:
    for line in file:
        loads(line)
"""
ARMS = {
    "bare orjson": f"from orjson import loads\n{BARE}",
    "bare msgspec": f"import msgspec\nloads = msgspec.json.Decoder().decode\n{BARE}",
    "check": "import runpy\nrunpy.run_module('tunery.data.check', run_name='__main__')\n",
}
# `ru_maxrss` would count the parent's memory, which the child has until it starts its program.
MEASURED = """
import resource
used = resource.getrusage(resource.RUSAGE_SELF)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(used.ru_utime + used.ru_stime, int(peak.split()[1]) / 1024, file=sys.stderr)
"""


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--data", type=Path, help="a chat data set, instead of one made here")
    options.add_argument("--size", type=int, default=1_000, help="megabytes to make")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = asked.data or write_chats(Path(folder) / "chats.jsonl", asked.size * 1_000_000)
        runs: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
        for _ in range(REPEATS):
            for arm, program in ARMS.items():
                runs[arm].append(measure(program, path))
        size = path.stat().st_size
    print(f"{size / 1e6:,.0f} MB; {REPEATS} turns, median (least to most).\n")
    print("| arm | CPU seconds | MB per CPU-second | peak MiB | against orjson | against msgspec |")
    print("|---|---|---|---|---|---|")
    for arm, measured in runs.items():
        seconds = [second for second, _ in measured]
        ratios = " | ".join(
            spread([second / bare for second, (bare, _) in zip(seconds, runs[other], strict=True)])
            for other in ("bare orjson", "bare msgspec")
        )
        rate = size / 1e6 / statistics.median(seconds)
        peak = max(peak for _, peak in measured)
        print(f"| {arm} | {spread(seconds)} | {rate:,.0f} | {peak:.0f} | {ratios} |")


def measure(program: str, path: Path) -> tuple[float, float]:
    """CPU seconds and peak MiB."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}{MEASURED}", str(path)],
        capture_output=True,
        check=True,
    )
    seconds, peak = done.stderr.split()
    return float(seconds), float(peak)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def write_chats(path: Path, size: int) -> Path:
    """Rows of one to three turns, half with a system message, no two alike."""
    rng = random.Random(5)
    words = ["".join(rng.choices(LETTERS, k=rng.randint(1, 10))) for _ in range(5_000)]
    sentences = [sentence(rng, words) for _ in range(20_000)]
    written = 0
    with path.open("wb") as file:
        while written < size:
            messages = []
            if rng.random() < 0.5:
                messages.append(("system", text(rng, sentences, 2)))
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                messages.append(("user", text(rng, sentences, rng.randint(1, 9))))
                messages.append(("assistant", text(rng, sentences, rng.randint(3, 24))))
            row = {"messages": [{"role": role, "content": said} for role, said in messages]}
            written += file.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())
    return path


def sentence(rng: random.Random, words: list[str]) -> str:
    """About 70 letters; some have quotes, an accent, or begin a line."""
    said = rng.choices(words, k=rng.randint(5, 18))
    if rng.random() < 0.1:
        said[1] = f'"{said[1]}"'
    if rng.random() < 0.01:
        said[2] += rng.choice("éü\N{RIGHT SINGLE QUOTATION MARK}")
    return f"{' '.join(said).capitalize()}.{rng.choices((' ', chr(10)), (5, 1))[0]}"


def text(rng: random.Random, sentences: list[str], count: int) -> str:
    return "".join(rng.choices(sentences, k=count)).strip()


if __name__ == "__main__":
    main()
