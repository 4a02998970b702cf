"""How fast the engine trains, and against what: `make bench-train`.

    python -m benchmarks.train [--data FILE] [--only PART ...] [--beside ARM ...] [--quick]

Every arm is a process of its own with one thread, trains the same rows in the same order and the
same steps on the same NF4 base, and is watched from outside. Tokens are those of the rows, never
padding; CPU seconds are user and system time of the arm's process. FILE is JSONL of chats.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from benchmarks.arms import (
    ROOT,
    Watched,
    median_and_spread,
    new_engine,
    shared_steps,
    train,
    watch_engine,
    watch_script,
)
from benchmarks.latency import service
from benchmarks.workloads import Workload, first_lines, short_chats, write_lines
from tunery.cli.env_files import read_env

DEMO = ROOT / "models" / "demo"
TUNERY = "tunery"
BARE = ("bare, packed", "bare, padded")
TRL = ("TRL default", "TRL tuned")
PEERS = (*BARE, *TRL)
POLL_SECONDS = 0.01
# Where only the end of a job is waited for. Each time costs the API some milliseconds.
SELDOM_SECONDS = 0.1


@dataclass(frozen=True)
class Size:
    """How much is measured. Steps up to `warm_up` are not in the rates."""

    demo_steps: int = 20
    wide_steps: int = 8
    warm_up: int = 3
    repeats: int = 3
    jobs: int = 16


QUICK = Size(demo_steps=4, wide_steps=3, warm_up=1, repeats=1, jobs=2)


@dataclass(frozen=True)
class Bench:
    folder: Path
    size: Size
    data: Path | None
    beside: Sequence[str] = PEERS

    def subfolder(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{name.replace(' ', '-')}-", dir=self.folder))

    @property
    def wide(self) -> Path:
        """The random base of 25.7 M parameters, made when first asked for."""
        base = self.folder / "wide"
        if not base.exists():
            subprocess.run(
                [sys.executable, "-m", "benchmarks.wide_base", base], check=True, cwd=ROOT
            )
        return base

    def short(self, base: Path, steps: int, packs: int) -> Workload:
        """The first rows of 400, a median of about 60 tokens and a long tail."""
        lines = list(short_chats(400, seed=1))[: 16 * steps]
        file = write_lines(self.folder / f"short-{steps}.jsonl", iter(lines))
        return Workload(f"short chats, {base.name} base", base, file, 16, packs)

    def medical(self, base: Path, steps: int, packs: int) -> Workload:
        if self.data is None:
            raise SystemExit("This part needs --data FILE, a JSONL file of chats.")
        file = self.folder / f"data-{steps}.jsonl"
        write_lines(file, first_lines(self.data, 8 * steps))
        return Workload(f"{self.data.name} cut at 1,024, {base.name} base", base, file, 8, packs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="JSONL of chats for the medical parts")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts alone")
    parser.add_argument("--beside", nargs="+", choices=PEERS, default=PEERS, help="these alone")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    asked = parser.parse_args()
    chosen = asked.only or [
        name for name in PARTS if name != "tune" and (asked.data or not name.startswith("medical"))
    ]
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), QUICK if asked.quick else Size(), asked.data, asked.beside)
        for name in chosen:
            PARTS[name](bench)


def print_machine() -> None:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in cpuinfo if "model name" in line), "?")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    packages = ("torch", "transformers", "peft", "bitsandbytes", "trl")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    cores = cpuinfo.count("") or "?"
    print(f"{time.strftime('%Y-%m-%d')}, {model}, {cores} cores, {memory:.0f} GiB; ", end="")
    print(f"Python {platform.python_version()}, {versions}; 1 thread an arm.")


# ---- one training ----------------------------------------------------------------------------


def short_demo(bench: Bench) -> None:
    compare(bench, bench.short(DEMO, bench.size.demo_steps, packs=8), aims=(0.85, 1.5, 1.0))


def short_wide(bench: Bench) -> None:
    compare(bench, bench.short(bench.wide, bench.size.wide_steps, packs=4), aims=(0.85, 1.5, 1.0))


def medical_demo(bench: Bench) -> None:
    compare(bench, bench.medical(DEMO, bench.size.demo_steps, packs=8), aims=(0.85, 1.3, 1.0))


def medical_wide(bench: Bench) -> None:
    compare(bench, bench.medical(bench.wide, bench.size.wide_steps, packs=8), aims=(0.85, 1.3, 1.0))


def compare(bench: Bench, workload: Workload, aims: tuple[float, float, float]) -> None:
    """All arms on one workload; `aims` for the rate against bare, TRL default and TRL tuned."""
    initial = initial_adapter(bench, workload)
    arms = {
        TUNERY: partial(engine_arm, bench, workload),
        **{
            name: partial(script_arm, bench, workload, initial, *arguments)
            for name, *arguments in (
                (BARE[0], "benchmarks.bare", "--packs", str(workload.packs)),
                (BARE[1], "benchmarks.bare"),
                (TRL[0], "benchmarks.with_trl"),
                (TRL[1], "benchmarks.with_trl", "--packs", str(workload.packs)),
            )
            if name in bench.beside
        },
    }
    runs = interleaved(arms, bench.size.repeats)
    print(f"\n### {workload.name}\n\n{workload.described}")
    tokens, rates = print_arms(workload, runs, bench.size.warm_up)
    print(f"\nRates over {tokens}; repeats: {bench.size.repeats}; median (least to most).\n")
    bare = [name for name in BARE if name in rates]
    floor = max(bare, key=lambda name: statistics.median(rates[name]), default=BARE[0])
    print("| against | figure | aim | median | spread |\n|---|---|---|---|---|")
    for against, aim in zip((floor, *TRL), aims, strict=True):
        if against not in rates:
            continue
        both = zip(rates[TUNERY], rates[against], strict=True)
        ratios = [ours / theirs for ours, theirs in both]
        print_ratio(against, "tokens per CPU-second", f"≥ {aim:.2f}", ratios)
    peers = [name for name in TRL if name in rates]
    for against in peers:
        pairs = zip(runs[TUNERY], runs[against], strict=True)
        memory = [ours.peak_mib / theirs.peak_mib for ours, theirs in pairs]
        print_ratio(against, "peak memory", "< 1", memory)
    for against in peers:
        curves = zip(runs[TUNERY][0].losses, runs[against][0].losses, strict=True)
        apart = [abs(ours / theirs - 1) for ours, theirs in curves]
        print(f"| {against} | loss curve, apart at the end | ≤ 1 % | {apart[-1]:.2g} |", end="")
        print(f" {max(apart):.2g} at most |")


def print_arms(
    workload: Workload, runs: dict[str, list[Watched]], warm_up: int
) -> tuple[str, dict[str, list[float]]]:
    """Returns which steps the rates are over, and each arm's tokens per CPU-second."""
    first, last = shared_steps([seen for each in runs.values() for seen in each], warm_up)
    tokens = sum(len(row.ids) for step in workload.steps[first:last] for row in step)
    rates = {}
    print("\n| arm | tokens per CPU-s | tokens per s | whole s | first step s | peak MiB | loss |")
    print("|---|---|---|---|---|---|---|")
    for name, each in runs.items():
        spent = [seen.between(first, last) for seen in each]
        rates[name] = [tokens / cpu for cpu, _ in spent]
        columns = [
            median_and_spread(rates[name], ".0f"),
            median_and_spread([tokens / seconds for _, seconds in spent], ".0f"),
            median_and_spread([seen.seconds for seen in each], ".1f"),
            median_and_spread([seen.first_step for seen in each], ".1f"),
            median_and_spread([seen.peak_mib for seen in each], ".0f"),
            f"{each[0].losses[0]:.4f} → {each[0].losses[-1]:.4f}",
        ]
        print(f"| {name} | " + " | ".join(columns) + " |")
    return f"steps {first + 1} to {last}, {tokens} tokens", rates


def print_ratio(against: str, figure: str, aim: str, ratios: list[float]) -> None:
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"| {against} | {figure} | {aim} | {statistics.median(ratios):.2f} | {spread} |")


def interleaved(
    arms: Mapping[str, Callable[[], Watched]], repeats: int
) -> dict[str, list[Watched]]:
    """Each arm once, then each once more: what slows the machine slows all of them."""
    runs: dict[str, list[Watched]] = {name: [] for name in arms}
    for repeat in range(repeats):
        for name, arm in arms.items():
            print(f"{repeat + 1}/{repeats} {name}", file=sys.stderr)
            runs[name].append(arm())
    return runs


def engine_arm(bench: Bench, workload: Workload) -> Watched:
    folder = bench.subfolder("engine")
    return watch_engine(workload.order(folder / "order"), folder / "log")


def script_arm(bench: Bench, workload: Workload, initial: Path, *arguments: str) -> Watched:
    module, *flags = arguments
    training = workload.script(bench.subfolder("script") / "order", initial)
    return watch_script(module, training, *flags)


def initial_adapter(bench: Bench, workload: Workload) -> Path:
    """The adapter that the engine starts from: what a rate that moves nothing leaves."""
    folder = bench.subfolder("initial")
    file = write_lines(folder / "row.jsonl", first_lines(workload.file, 1))
    one_row = Workload("one row", workload.base, file, 1, chat_template=workload.chat_template)
    still = one_row.order(folder / "order", 1e-30)
    watch_engine(still, folder / "log")
    return still.folder / "adapter" / "adapter_model.safetensors"


def tune(bench: Bench) -> None:
    """Which number of packs is TRL's best."""
    sources = [(bench.short, 16), *([(bench.medical, 8)] if bench.data else [])]
    for source, rows in sources:
        for base, steps in ((DEMO, bench.size.demo_steps), (bench.wide, bench.size.wide_steps)):
            workload = source(base, steps, packs=1)
            initial = initial_adapter(bench, workload)
            counts = [count for count in (1, 2, 4, 8, 16) if count <= rows]
            arms = {
                f"TRL, packs: {count}": partial(
                    script_arm, bench, workload, initial,
                    "benchmarks.with_trl", "--packs", str(count),
                )
                for count in counts
            }  # fmt: skip
            print(f"\n### Packs for TRL: {workload.name}\n\n{workload.described}")
            print_arms(workload, interleaved(arms, 1), bench.size.warm_up)


# ---- many small ones -------------------------------------------------------------------------


def jobs(bench: Bench) -> None:
    """Small jobs submitted at once to one warm worker, against one TRL process after another."""
    count, folder = bench.size.jobs, bench.subfolder("jobs")
    files = [
        write_lines(folder / f"{number}.jsonl", short_chats(60, seed=number, spread=0.1))
        for number in range(count)
    ]
    with warm_service(folder) as client:
        ids = [
            client.files.create(file=(file.name, file.read_bytes()), purpose="fine-tune").id
            for file in files
        ]
        began = time.monotonic()
        submitted = [submit(client, file, n_epochs=2, batch_size=8) for file in ids]
        for job in submitted:
            wait_for(client, job.id, lambda now: now.status == "succeeded", SELDOM_SECONDS)
        ours = time.monotonic() - began
    workloads = [Workload("small job", DEMO, file, 8, n_epochs=2) for file in files]
    print(f"\n### {count} small jobs\n\n{workloads[0].described}\n")
    initial = initial_adapter(bench, workloads[0])
    began = time.monotonic()
    for workload in workloads:
        script_arm(bench, workload, initial, "benchmarks.with_trl", "--packs", "1")
    theirs = time.monotonic() - began
    print("| what | seconds | jobs per hour |\n|---|---|---|")
    for name, seconds in (("one warm worker", ours), (f"{count} TRL processes", theirs)):
        print(f"| {name} | {seconds:.1f} | {3600 * count / seconds:.0f} |")
    print(f"\n{theirs / ours:.1f} times the jobs per hour; the aim is 5.")


# ---- one step --------------------------------------------------------------------------------


def latency(bench: Bench) -> None:
    """The time to the first step, of jobs that have only one."""
    folder = bench.subfolder("latency")
    file = write_lines(folder / "rows.jsonl", short_chats(16, seed=1))
    workload = Workload("one step", DEMO, file, 16)
    initial = initial_adapter(bench, workload)
    runs = interleaved(
        {
            "cold engine": partial(engine_arm, bench, workload),
            "TRL script": partial(
                script_arm, bench, workload, initial, "benchmarks.with_trl", "--packs", "1"
            ),
        },
        bench.size.repeats,
    )
    seconds = {name: [seen.first_step for seen in each] for name, each in runs.items()}
    engine = new_engine(folder / "log")
    try:
        train(engine, workload.order(folder / "first"), time.monotonic())
        seconds["warm engine"] = [
            train(engine, workload.order(folder / f"next-{number}"), time.monotonic()).first_step
            for number in range(bench.size.repeats)
        ]
    finally:
        engine.kill()
    with warm_service(folder) as client:
        upload = client.files.create(file=("rows.jsonl", file.read_bytes()), purpose="fine-tune")
        seconds["POST /jobs, warm worker"] = [
            first_step(client, upload.id) for _ in range(bench.size.repeats)
        ]
    print(f"\n### First step\n\n{workload.described}\n")
    print("| from | seconds to the first step |\n|---|---|")
    for name, each in seconds.items():
        print(f"| {name} | {median_and_spread(each, '.2f')} |")
    ratio = statistics.median(seconds["cold engine"]) / statistics.median(seconds["TRL script"])
    print(f"\nCold engine over TRL script: {ratio:.2f}; the aim is 0.8. Warm: the aim is 1 s.")


# ---- the service -----------------------------------------------------------------------------


@contextmanager
def warm_service(folder: Path) -> Iterator[OpenAI]:
    """A whole service whose worker has the demo base in memory."""
    data_dir = folder / "service"
    with service(data_dir):
        env = read_env(data_dir / "client.env")
        client = OpenAI(base_url=env["OPENAI_BASE_URL"], api_key=env["OPENAI_API_KEY"])
        rows = "\n".join(short_chats(10, seed=0)).encode()
        file = client.files.create(file=("first.jsonl", rows), purpose="fine-tune").id
        job = submit(client, file, n_epochs=1, batch_size=10)
        wait_for(client, job.id, lambda now: now.status == "succeeded")
        yield client


def submit(client: OpenAI, file: str, *, n_epochs: int, batch_size: int) -> FineTuningJob:
    return client.fine_tuning.jobs.create(
        model="tunery-demo",
        training_file=file,
        hyperparameters={"n_epochs": n_epochs, "batch_size": batch_size},
    )


def first_step(client: OpenAI, file: str) -> float:
    began = time.monotonic()
    job = submit(client, file, n_epochs=1, batch_size=16)
    wait_for(client, job.id, lambda now: bool(now.trained_tokens))
    took = time.monotonic() - began
    wait_for(client, job.id, lambda now: now.status == "succeeded")
    return took


def wait_for(
    client: OpenAI,
    job: str,
    what: Callable[[FineTuningJob], bool],
    seconds: float = POLL_SECONDS,
) -> None:
    """Asks anew every so many seconds."""
    while not what(now := client.fine_tuning.jobs.retrieve(job)):
        if now.status in {"failed", "cancelled"}:
            raise RuntimeError(now.error)
        time.sleep(seconds)


PARTS: dict[str, Callable[[Bench], None]] = {
    "short-demo": short_demo,
    "short-wide": short_wide,
    "medical-demo": medical_demo,
    "medical-wide": medical_wide,
    "jobs": jobs,
    "latency": latency,
    "tune": tune,
}

if __name__ == "__main__":
    main()
