"""Stands in for the engine where weights do not matter: it reads the agent's commands and answers
as its first argument says.

    python scripted_engine.py SCRIPT --commands FD --reports FD
"""

import argparse
import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ADAPTER = ("adapter_model.safetensors", "adapter_config.json", "manifest.json", "metrics.csv")
STEPS = 4
SERVED = {"base_model": "tunery-tiny", "quantization": "none", "double_quant": True}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("script")
    parser.add_argument("--commands", type=int)
    parser.add_argument("--reports", type=int)
    args = parser.parse_args()
    reports = os.fdopen(args.reports, "w", buffering=1)

    def say(**report: Any) -> None:
        reports.write(json.dumps(report) + "\n")

    faulthandler.register(signal.SIGUSR1)
    commands = iter(os.fdopen(args.commands))
    say(type="ready", device="cpu", memory_bytes=1 << 30)
    if args.script.startswith("answer"):
        say(type="serves", held=False, **SERVED)
    for line in commands:
        order = json.loads(line)
        if order["type"] == "train":
            train(args.script, order, say, commands)
        elif order["type"] == "export":
            export(args.script, order, say, commands)
        elif order["type"] == "complete":
            answer(order, say)


def train(script: str, order: dict[str, Any], say: Any, commands: Iterator[str]) -> None:
    whose = {"job_id": order["job_id"], "token": order["token"]}
    sys.stderr.write(f"training {order['job_id']}\n")
    if order["checkpoint"]:
        sys.stderr.write(f"from {Path(order['checkpoint'], 'state.bin').read_text()}\n")
    sys.stderr.flush()
    # A word left over from some earlier attempt.
    say(type="stopped", job_id="ftjob-old", token=1)
    if script == "refuse" and order["checkpoint"]:
        refused = {"code": "checkpoint_refused", "message": "it has format 1"}
        say(type="broke", failure_class="infra", **refused, **whose)
        return
    if script == "broke":
        say(
            type="broke",
            failure_class="user",
            code="bad_rows",
            message="no row is any good",
            **whose,
        )
        return
    if not prepare(script, whose, say):
        return
    progress = {"step": 0, "total_steps": STEPS, "trained_tokens": 0}
    say(type="started", progress=progress, **whose)
    if script == "full":
        full = {"code": "out_of_memory", "message": "too little memory"}
        say(type="broke", failure_class="oom", **full, **whose)
        return
    if script == "chatter":
        base = order["base_folder"]
        sys.stderr.write(f"{base} has {base}/config.json\n")
        sys.stderr.write("nothing new\n" * 1000)
        sys.stderr.flush()
    for step in range(1, STEPS + 1):
        progress = {"step": step, "total_steps": STEPS, "trained_tokens": 10 * step}
        say(
            type="stepped",
            metrics={"step": step, "train_loss": 1 / step},
            progress=progress,
            pace={"elapsed_seconds": step, "tokens_per_second": 10.0, "memory_bytes": 1 << 20},
            **whose,
        )
        if script == "die" and step == 3 and order["checkpoint"] is None:
            os.abort()
        if step == 2:
            folder = write(Path(order["folder"]) / "checkpoint-2", {"state.bin": "two"})
            metrics = {"step": 2, "train_loss": 0.5}
            say(type="checkpointed", epoch=1, metrics=metrics, folder=folder, **whose)
        if script == "wait" and step == 3 and order["checkpoint"] is None:
            stop = json.loads(next(commands))
            assert (stop["type"], stop["job_id"]) == ("stop", order["job_id"])
            if stop["checkpoint"]:
                folder = write(Path(order["folder"]) / "checkpoint-3", {"state.bin": "three"})
                metrics = {"step": 3, "train_loss": 0.3}
                say(type="checkpointed", epoch=1, metrics=metrics, folder=folder, **whose)
            say(type="stopped", **whose)
            return
        if script == "answer beside" and step == 3:
            say(type="serves", held=True, **SERVED)
            for line in commands:
                asked = json.loads(line)
                if asked["type"] == "complete":
                    answer(asked, say)
                elif asked["type"] == "stop":
                    say(type="stopped", **whose)
                    return
        if script == "deaf" and step == 3:
            time.sleep(600)
    folder = write(Path(order["folder"]) / "adapter", dict.fromkeys(ADAPTER, "content"))
    csv = f"{folder}/metrics.csv"
    say(type="finished", folder=folder, trained_tokens=40, metrics_csv=csv, **whose)


def prepare(script: str, whose: dict[str, Any], say: Any) -> bool:
    """Whether it comes to the training."""
    say(type="entered", phase="base", **whose)
    if script == "lacks":
        differs = {"code": "base_model_differs", "message": "The base is another."}
        say(type="broke", failure_class="base", phase="base", **differs, **whose)
        return False
    if script == "crash on base":
        os.abort()
    say(type="entered", phase="training_file", **whose)
    if script == "crash on data":
        os.abort()
    if script == "panic on data":
        panic = {"code": "engine_error", "message": "A panic at line 3."}
        say(type="broke", failure_class="infra", phase="training_file", **panic, **whose)
        return False
    say(type="entered", phase="training", **whose)
    return True


def export(script: str, order: dict[str, Any], say: Any, commands: Iterator[str]) -> None:
    whose = {"job_id": order["job_id"], "token": order["token"]}
    if script == "die":
        os.abort()
    if script == "broke":
        say(type="broke", failure_class="user", code="export_refused", message="no way", **whose)
        return
    if script == "wait":
        say(type="noted", message="Waiting", **whose)
        json.loads(next(commands))
        say(type="stopped", **whose)
        return
    files = sorted(path.name for path in Path(order["adapter"]).iterdir())
    given = {name: bool(order[name]) for name in ("plan", "training_file", "validation_file")}
    say(type="noted", message="Made of", data={"adapter": files, "given": given}, **whose)
    name = order["options"]["format"]
    content = {f"{name}.bin": "content", "manifest.json": json.dumps(order["options"])}
    say(type="finished", folder=write(Path(order["folder"]) / name, content), **whose)


def answer(order: dict[str, Any], say: Any) -> None:
    """Does as it is asked: die, be slow, give it back; else it says what it was given."""
    whose = {"completion_id": order["completion_id"], "token": order["token"]}
    asked = order["prompt"]["messages"][-1]["content"]
    if asked == "die":
        os.abort()
    if asked == "give back":
        say(type="said", part={"number": 0, "released": True}, **whose)
        return
    files = sorted(path.name for path in Path(order["adapter"] or "/nowhere").glob("*"))
    words = [f"{word} " for word in [order["base_model"], *files]]
    for number in range(60 if asked == "slow" else 2):
        piece = {"text": "".join(words) if number == 0 else f"{number} "}
        say(type="said", part={"number": number, "pieces": [piece]}, **whose)
        time.sleep(0.05 if asked == "slow" else 0)
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    say(type="said", part={"number": 9, "ends": [{"reason": "stop"}], "usage": usage}, **whose)


def write(folder: Path, files: dict[str, str]) -> str:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    return str(folder)


if __name__ == "__main__":
    main()
