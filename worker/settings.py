"""A worker's settings, read once from the environment and passed on."""

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from tunery import hub, log_lines
from tunery.messages import DEFAULT_POOL, POOL_NAME, WORKER_NAME

# All that the engine, which reads strangers' data, finds in its environment: no secrets.
ENGINE_VARIABLES = re.compile(
    r"PATH|HOME|TMPDIR|LANG|LC_\w+|PYTHONPATH|LD_LIBRARY_PATH|(CUDA|CUBLAS|NVIDIA|NCCL|PYTORCH|TORCH|TRITON|OMP)_\w+"
)


def default_name() -> str:
    return socket.gethostname()


class Settings(BaseSettings):
    """See `.env.example`."""

    model_config = SettingsConfigDict(
        env_prefix="TUNERY_",
        # Compose hands over what is not set as empty.
        env_ignore_empty=True,
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    # Whoever knows the API by its /v1 means the same address.
    api_url: Annotated[
        str,
        Field(pattern=r"^https?://[^\s/]"),
        AfterValidator(lambda url: url.rstrip("/").removesuffix("/v1")),
    ]
    worker_key: SecretStr
    work_dir: Path
    worker_name: str = Field(default_factory=default_name, pattern=WORKER_NAME)
    # The pool of machines that it belongs to, as the server's TUNERY_POOLS calls it.
    pool: str = Field(default=DEFAULT_POOL, pattern=POOL_NAME)
    # How many of the GPUs that it sees one training may use; on a CPU, how many processes.
    gpus_per_job: int = Field(default=1, ge=1, le=64)
    # The most that a training loses when its machine dies.
    checkpoint_seconds: float = Field(default=300, gt=0)
    # SIGTERM to exit.
    grace_seconds: float = Field(default=30, ge=10)
    # An engine that says nothing for so long hangs.
    hang_seconds: float = Field(default=900, gt=0)
    # How many questions it answers at once with the models that it has; 0: none.
    answer_room: int = Field(default=8, ge=0, le=256)
    # Of a training's time, the most that answers beside it take.
    answer_share: float = Field(default=0.05, ge=0, le=1)
    # Kernels of its own in the place of PyTorch's operations, on a GPU.
    kernels: Literal["plain", "fused"] = "plain"
    # How many bytes of base models it keeps that it has fetched.
    fetched_bytes: int = Field(default=256 << 30, gt=0)
    # The model hub, by the names that its own tools have.
    hf_endpoint: hub.Endpoint = Field(default=hub.PUBLIC, validation_alias="HF_ENDPOINT")
    hf_token: SecretStr | None = Field(default=None, validation_alias="HF_TOKEN")
    hf_hub_offline: bool = Field(default=False, validation_alias="HF_HUB_OFFLINE")
    # None: the worker polls the API and needs no Celery.
    redis_url: SecretStr | None = Field(default=None, validation_alias="REDIS_URL")
    # Where jobs' traces go, by OpenTelemetry's own name; None: nowhere.
    otel_endpoint: str | None = Field(
        default=None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT", pattern=r"^https?://"
    )
    # How the process tells its log, and how much.
    log: log_lines.Form = "text"
    log_level: log_lines.Level = "info"


def engine_environment() -> dict[str, str]:
    """What the engine needs of the worker's own environment, and no way to a model hub."""
    kept = {name: os.environ[name] for name in os.environ if ENGINE_VARIABLES.fullmatch(name)}  # noqa: TID251
    return kept | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
