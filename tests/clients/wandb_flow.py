"""wandb's WandbLogger.sync of a job. Its network is stubbed: it runs offline, is taken for logged
in and finds nothing of an earlier run; what it cannot do offline (say that a data set was used) is
noted instead.
"""

import os
from typing import Any

os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"

import openai
import wandb
from wandb.integration.openai.fine_tuning import WandbLogger

client = openai.OpenAI()
with open(os.environ["DATA"], "rb") as data:
    file = client.files.create(file=data, purpose="fine-tune")
job = client.fine_tuning.jobs.create(
    model=os.environ["MODEL"],
    training_file=file.id,
    validation_file=file.id,
    hyperparameters={"n_epochs": 2},
)
used: list[str] = []
logged: list[dict[str, Any]] = []
summaries: list[dict[str, Any]] = []
log, finish = wandb.Run.log, wandb.Run.finish


def note(run: wandb.Run, metrics: dict[str, Any], **options: Any) -> None:
    logged.append(metrics)
    log(run, metrics, **options)


def note_end(run: wandb.Run) -> None:
    summaries.append(dict(run.summary))
    finish(run)


def unreachable() -> wandb.Api:
    raise ConnectionError("no network")


wandb.login = lambda: True
wandb.Api = unreachable
wandb.Run.log, wandb.Run.finish = note, note_end
wandb.Run.use_artifact = lambda _, artifact, **__: used.append(artifact.name)
said = WandbLogger.sync(fine_tune_job_id=job.id, openai_client=client)
assert "success" in said, said
(summary,) = summaries
assert summary["fine_tuned_model"].startswith("ft:"), summary
losses = [metrics["train_loss"] for metrics in logged if "train_loss" in metrics]
tables = [name for metrics in logged for name in metrics if name.endswith("_data")]
assert losses
assert sorted(tables) == ["train_data", "valid_data"], tables
assert len(used) == 2, used
print(
    f"waited for the job, logged {len(losses)} steps, {len(tables)} tables, {len(used)} data sets"
)
