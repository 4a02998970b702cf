"""The command line that openai 1.109.1 has: `openai api files.*` and `fine_tuning.jobs.*`.

Its `files.retrieve` and `files.delete` fail before they ask anything, whatever the server.
"""

import json
import os
import subprocess
import time
from typing import Any


def openai(*argv: str) -> list[dict[str, Any]]:
    """What it prints: objects in JSON, one after another or in a page."""
    done = subprocess.run(["openai", "api", *argv], check=True, capture_output=True, text=True)
    found, text = [], done.stdout.strip()
    while text:
        item, end = json.JSONDecoder().raw_decode(text)
        found += item.get("data", [item])
        text = text[end:].lstrip()
    return found


(file,) = openai("files.create", "-f", os.environ["DATA"], "-p", "fine-tune")
assert file["id"] in {each["id"] for each in openai("files.list")}
create = ("fine_tuning.jobs.create", "-m", os.environ["MODEL"], "-F", file["id"])
(job,) = openai(*create, "-s", "cli", "-H", '{"n_epochs": 1}')
while job["status"] not in {"succeeded", "failed", "cancelled"}:
    time.sleep(1)
    (job,) = openai("fine_tuning.jobs.retrieve", "-i", job["id"])
assert job["status"] == "succeeded", job
assert job["id"] in {each["id"] for each in openai("fine_tuning.jobs.list")}
events = openai("fine_tuning.jobs.list_events", "-i", job["id"])
assert events
(other,) = openai(*create, "-H", '{"n_epochs": 50}')
(cancelled,) = openai("fine_tuning.jobs.cancel", "-i", other["id"])
assert cancelled["id"] == other["id"]
assert job["fine_tuned_model"] in {each["id"] for each in openai("models.list")}
print(f"files.create, list; jobs.create, retrieve, list, list_events ({len(events)}), cancel")
