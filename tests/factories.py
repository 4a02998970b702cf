"""What tests need many of."""

import json
from typing import Any

from openai import OpenAI
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob

from api.projects import Caller
from tests.conftest import BASE


def chat(question: str = "What does a cow eat?", answer: str = "A cow eats grass.") -> str:
    return json.dumps(
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        }
    )


def data_set(rows: int = 12) -> bytes:
    return "\n".join(chat(f"What is {n} and one?", f"It is {n + 1}.") for n in range(rows)).encode()


def upload(client: OpenAI, content: bytes | None = None, name: str = "data.jsonl") -> FileObject:
    return client.files.create(file=(name, content or data_set()), purpose="fine-tune")


def create_job(client: OpenAI, file_id: str | None = None, **settings: Any) -> FineTuningJob:
    settings.setdefault("model", BASE)
    return client.fine_tuning.jobs.create(training_file=file_id or upload(client).id, **settings)


def caller(project_id: str) -> Caller:
    return Caller(project_id, "default", frozenset({"read", "write"}))
