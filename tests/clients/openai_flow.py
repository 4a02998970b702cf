"""The `openai` package, as its own guide has it: upload, create, follow, fetch; and all lists."""

import os
import time
from pathlib import Path

import openai

client = openai.OpenAI()
jobs = client.fine_tuning.jobs

with open(os.environ["DATA"], "rb") as data:
    file = client.files.create(file=data, purpose="fine-tune")
file = client.files.wait_for_processing(file.id)
assert file.status == "processed", file
job = jobs.create(
    model=os.environ["MODEL"],
    training_file=file.id,
    validation_file=file.id,
    method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    suffix="flow",
    seed=7,
    metadata={"client": openai.__version__},
)
while jobs.retrieve(job.id).status not in {"succeeded", "failed", "cancelled"}:
    time.sleep(1)
job = jobs.retrieve(job.id)
assert job.status == "succeeded", job
events = list(jobs.list_events(job.id, limit=5))
assert events[0].created_at >= events[-1].created_at
assert any(event.type == "metrics" for event in events)
checkpoints = list(jobs.checkpoints.list(job.id, limit=1))
assert checkpoints[0].metrics.valid_loss
assert job.id in {each.id for each in jobs.list(limit=2)}
assert job.id in {
    each.id
    for each in client.fine_tuning.jobs.list(extra_query={"metadata[client]": openai.__version__})
}
results = client.files.content(job.result_files[0]).text
assert results.startswith("step,"), results
assert client.models.retrieve(job.fine_tuned_model).id == job.fine_tuned_model
assert job.fine_tuned_model in {model.id for model in client.models.list()}

question = {"role": "user", "content": "What is 2 and one?"}
asked = {"model": job.fine_tuned_model, "messages": [question], "max_tokens": 20}
chat = client.chat.completions.create(**asked, temperature=0)
assert chat.choices[0].message.content, chat
streamed = client.chat.completions.create(**asked, temperature=0, stream=True)
said = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
assert said == chat.choices[0].message.content, said
text = client.completions.create(model=checkpoints[0].fine_tuned_model_checkpoint, prompt="It is")
assert text.usage.completion_tokens, text
if hasattr(client, "responses"):
    response = client.responses.create(model=os.environ["MODEL"], input="What is 2 and one?")
    assert response.output_text, response

other = jobs.create(
    model=os.environ["MODEL"], training_file=file.id, hyperparameters={"n_epochs": 50}
)
if hasattr(jobs, "pause"):
    jobs.pause(other.id)
    jobs.resume(other.id)
assert jobs.cancel(other.id).status in {"cancelled", "running"}
try:
    refused = client.files.retrieve("file-nothing")
except openai.NotFoundError as error:
    refused = error
assert refused.code == "not_found", refused
assert refused.request_id, "an error says under which request it came"
while jobs.retrieve(other.id).status != "cancelled":
    time.sleep(0.5)
assert client.files.delete(file.id).deleted
whole = client.uploads.upload_file_chunked(
    file=Path(os.environ["DATA"]), mime_type="text/jsonl", purpose="fine-tune", part_size=1000
)
assert whole.status == "completed", whole
assert whole.file.id in {each.id for each in client.files.list(purpose="fine-tune")}
print(
    f"{file.filename}, {len(events)} events, {len(checkpoints)} checkpoints, "
    f"{job.fine_tuned_model}, which says {said!r}; another paused, resumed, cancelled; uploaded in "
    "parts"
)
