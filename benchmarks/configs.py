"""How many of another trainer's configs become jobs: `python -m benchmarks.configs PROGRAM FOLDER`.

PROGRAM is axolotl or llamafactory, FOLDER has its configs, such as `examples` of a checkout. Each
is read as `tunery create` reads it, and what it asks for is judged by the API's own rules, but for
what only a base or a data set can say: settings are counted, not families of models, and what is on
a hub is taken to be given with --training. The configs of what is not trained here at all are left
out, each kind by its name.
"""

import argparse
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from api.jobs.named import named
from api.jobs.requests import CreateJob
from tunery.cli.configs import axolotl, llamafactory
from tunery.cli.configs.llamafactory_rows import GIVE_IT
from tunery.cli.configs.settings import read
from tunery.errors import InvalidRequest

Config = dict[str, Any]
Kinds = dict[str, Callable[[Config], bool]]


def learns_by_reward(config: Config) -> bool:
    return any(config.get(name) for name in ("reward_model", "process_reward_model"))


# What is not trained here; a config is of the first kind that it is.
AXOLOTL: Kinds = {
    "no training: clouds, models to merge": lambda config: "base_model" not in config,
    "images or audio": lambda config: bool(
        config.get("processor_type") or config.get("is_multimodal")
    ),
    "reinforcement and preferences other than DPO": lambda config: (
        config.get("rl") not in {None, "dpo"}
    ),
    "reward models": learns_by_reward,
    "diffusion": lambda config: "diffusion" in config,
    "pretraining on streams, or from new weights": lambda config: bool(
        config.get("pretraining_dataset") or config.get("reinit_weights")
    ),
    "quantization-aware training": lambda config: bool(
        config.get("qat") or config.get("use_onebitllms")
    ),
    "bases that come in 4 bits (GPTQ, NVFP4)": lambda config: any(
        config.get(name) for name in ("gptq", "nvfp4_merge_aware", "dsv4_fp4_grouped_mode")
    ),
    "mixtures of experts: loss of the router": lambda config: bool(
        (config.get("model_config") or {}).get("output_router_logits")
    ),
    "the loss of EAFT": lambda config: bool(config.get("use_eaft")),
    "what Axolotl itself no longer takes": lambda config: bool(
        config.get("max_packed_sequence_len")
    ),
}
LLAMAFACTORY: Kinds = {
    "no training: serving, merging, lists of devices or tokens": lambda config: (
        "model_name_or_path" not in config
        or not (config.get("do_train") or "dataset" in config)
        or "export_dir" in config
    ),
    "images or audio": lambda config: (
        any(name.startswith(("image_", "video_", "audio_", "freeze_vision")) for name in config)
        or "vl" in str(config.get("template"))
        or "mllm" in str(config.get("dataset"))
    ),
    "reward models, PPO and KTO": lambda config: (
        config.get("stage", "sft") not in {"sft", "dpo", "pt"}
    ),
    "losses of research (DFT, ASFT, EAFT)": lambda config: any(
        config.get(f"use_{name}_loss") for name in ("dft", "asft", "eaft")
    ),
    "data sets prepared without training": lambda config: (
        "tokenized_path" in config and "per_device_train_batch_size" not in config
    ),
}
PROGRAMS = {
    "axolotl": (axolotl.wanted_of, AXOLOTL),
    "llamafactory": (llamafactory.wanted_of, LLAMAFACTORY),
}


def faults_of(config: Config, program: str, folder: Path) -> list[str]:
    """Why a config is refused before anything is sent; none if it is not."""
    wanted_of, _ = PROGRAMS[program]
    wanted = wanted_of(config, folder=folder)
    faults = [fault for fault in wanted.refused if not fault.endswith(f"{GIVE_IT})")]
    body = wanted.body | {"training_file": "file-1"}
    try:
        named(CreateJob.model_validate(body))
    except ValidationError as error:
        faults += [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    except InvalidRequest as error:
        faults.append(str(error))
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true", help="Name the accepted ones, too.")
    asked = parser.parse_args()
    folder: Path = asked.folder.resolve()
    _, kinds = PROGRAMS[asked.program]
    os.chdir(folder.parent)  # where LLaMA-Factory's commands are run from
    jobs: list[str] = []
    refused: dict[str, list[str]] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    for path in sorted([*folder.rglob("*.yml"), *folder.rglob("*.yaml")]):
        name = str(path.relative_to(folder))
        try:
            config = read(path)
        except InvalidRequest:
            left_out["no settings"].append(name)
            continue
        kind = next((kind for kind, is_of in kinds.items() if is_of(config)), None)
        if kind:
            left_out[kind].append(name)
        elif faults := faults_of(config, asked.program, path.parent):
            refused[name] = faults
        else:
            jobs.append(name)
    for kind, names in left_out.items():
        print(f"Left out, {kind}: {len(names)}")
        print(*(f"    {name}" for name in names), sep="\n")
    print(f"Refused: {len(refused)}")
    for name, faults in refused.items():
        print(f"    {name}", *(f"        {fault[:200]}" for fault in faults), sep="\n")
    if asked.all:
        print("Jobs:", *(f"    {name}" for name in jobs), sep="\n")
    judged = len(jobs) + len(refused)
    print(f"Of {judged} configs {len(jobs)} become jobs: {len(jobs) / max(1, judged):.0%}")


if __name__ == "__main__":
    main()
