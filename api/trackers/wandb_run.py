"""`python -m api.trackers.wandb_run`: tells W&B what came on stdin, and writes to `answer.json` how
that went. A child of the janitor; nothing else imports it, and it imports nothing of ours.
"""

import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from tunery import privileges

CPU_SECONDS = 60
FILE_BYTES = 256 << 20
INIT_SECONDS = 60


def main() -> None:
    privileges.give_up()
    said = json.load(sys.stdin)
    # Should its parent be gone, it ends nevertheless.
    signal.alarm(said["seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Path("answer.json").write_text(json.dumps(answer_to(said)))


def answer_to(said: dict[str, Any]) -> dict[str, Any]:
    """The run's address, or of a failure its kind alone."""
    try:
        import wandb  # noqa: PLC0415  (an extra, and slow)
    except ImportError:
        return {"missing": True}
    try:
        return {"url": tell(wandb, said)}
    except Exception as error:  # noqa: BLE001  (whatever it is, its name is told)
        return {"error": type(error).__name__}


def tell(wandb: Any, said: dict[str, Any]) -> str | None:  # noqa: ANN401
    """Resumes the run of the job's id, or begins it. Steps that it has are left out: a telling
    before this one may have been broken off at any point. Returns where it is seen.
    """
    run = wandb.init(
        **said["run"],
        config=said["config"],
        allow_val_change=True,
        resume="allow",
        settings=wandb.Settings(
            api_key=said["api_key"],
            base_url=said["base_url"],
            root_dir=".",
            init_timeout=INIT_SECONDS,
            host="tunery",
            # What it would else say of this machine is of no use there.
            console="off",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            save_code=False,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            # A run whose job goes on stays under way.
            x_update_finish_state=said["exit_code"] is not None,
        ),
    )
    for step in said["steps"]:
        if step["step"] >= run.step:
            run.log({name: step[name] for name in step if name != "step"}, step=step["step"])
    url: str | None = run.url
    run.finish(exit_code=said["exit_code"] or 0)
    return url


if __name__ == "__main__":
    main()
