"""A worker's settings, read once from the environment and passed on."""

import os
import socket
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

# What the engine, which reads strangers' data, must not find in its environment.
SECRET_VARIABLES = {"TUNERY_WORKER_KEY", "TUNERY_SECRET", "DATABASE_URL", "REDIS_URL"}


def default_name() -> str:
    return socket.gethostname()


class Settings(BaseSettings):
    """See `.env.example`."""

    model_config = SettingsConfigDict(env_prefix="TUNERY_", frozen=True, populate_by_name=True)

    api_url: str
    worker_key: SecretStr
    work_dir: Path
    worker_name: str = Field(default_factory=default_name)
    # None: the worker polls the API and needs no Celery.
    redis_url: SecretStr | None = Field(default=None, validation_alias="REDIS_URL")


def engine_environment() -> dict[str, str]:
    """The worker's own environment without its secrets, and with no way to a model hub."""
    kept = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}  # noqa: TID251
    return kept | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
