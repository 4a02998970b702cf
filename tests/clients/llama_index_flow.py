"""LlamaIndex's OpenAIFinetuneEngine. Its own check of the data fetches a tokenizer of OpenAI's from
the network, and is left out with its own option.
"""

import os
import time

from llama_index.finetuning import OpenAIFinetuneEngine

engine = OpenAIFinetuneEngine(os.environ["MODEL"], os.environ["DATA"], validate_json=False)
engine.finetune()
job = engine.get_current_job()
while job.status not in {"succeeded", "failed", "cancelled"}:
    time.sleep(1)
    job = engine.get_current_job()
model = engine.get_finetuned_model()
assert model.model == job.fine_tuned_model
again = OpenAIFinetuneEngine(os.environ["MODEL"], os.environ["DATA"], start_job_id=job.id)
assert again.get_current_job().status == "succeeded"
print(f"finetune, get_current_job, get_finetuned_model: {model.model}")
