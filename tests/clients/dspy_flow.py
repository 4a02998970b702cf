"""dspy: a language model tuned on a few chats, through its OpenAIProvider."""

import json
import os
from pathlib import Path

import dspy
from dspy.clients.openai import OpenAIProvider
from dspy.clients.utils_finetune import TrainDataFormat

dspy.settings.configure(experimental=True)
rows = [json.loads(line) for line in Path(os.environ["DATA"]).read_text().splitlines()]
model = dspy.LM(f"openai/{os.environ['MODEL']}", provider=OpenAIProvider())
job = model.finetune(train_data=rows, train_data_format=TrainDataFormat.CHAT, train_kwargs={})
tuned = job.result()
assert isinstance(tuned, dspy.LM), tuned
assert "ft:" in tuned.model, tuned.model
assert OpenAIProvider.does_job_exist(job.provider_job_id)
assert OpenAIProvider.does_file_exist(job.provider_file_id)
assert job.status().value == "succeeded"
# litellm knows of a name without a provider only if it is one of OpenAI's own.
(said,) = dspy.LM(f"openai/{tuned.model}")("What is 2 and one?", max_tokens=20)
assert said
print(f"upload, create with hyperparameters {{}}, wait; {tuned.model}, says {said!r}")
