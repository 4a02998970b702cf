"""litellm's own fine-tuning functions. (Those of its proxy need a licence of litellm's.)"""

import asyncio
import os

import litellm

OPENAI = {"custom_llm_provider": "openai", "api_base": os.environ["OPENAI_BASE_URL"]}


async def flow() -> str:
    with open(os.environ["DATA"], "rb") as data:  # noqa: ASYNC230
        file = await litellm.acreate_file(file=data, purpose="fine-tune", **OPENAI)
    asked = {"model": os.environ["MODEL"], "training_file": file.id}
    job = await litellm.acreate_fine_tuning_job(**asked, hyperparameters={"n_epochs": 1}, **OPENAI)
    while job.status not in {"succeeded", "failed", "cancelled"}:
        await asyncio.sleep(1)
        job = await litellm.aretrieve_fine_tuning_job(fine_tuning_job_id=job.id, **OPENAI)
    assert job.status == "succeeded", job
    listed = await litellm.alist_fine_tuning_jobs(limit=5, **OPENAI)
    assert job.id in {each.id for each in listed.data}
    long = {"n_epochs": 50}
    other = await litellm.acreate_fine_tuning_job(**asked, hyperparameters=long, **OPENAI)
    cancelled = await litellm.acancel_fine_tuning_job(fine_tuning_job_id=other.id, **OPENAI)
    assert cancelled.id == other.id
    results = await litellm.afile_content(file_id=job.result_files[0], **OPENAI)
    assert results.text.startswith("step,")
    found = await litellm.afile_retrieve(file_id=file.id, **OPENAI)
    assert found.id == file.id
    question = [{"role": "user", "content": "What is 2 and one?"}]
    chat = await litellm.acompletion(
        model=job.fine_tuned_model, messages=question, max_tokens=20, **OPENAI
    )
    said = chat.choices[0].message.content
    assert said, chat
    return f"files, create, retrieve, list, cancel, content; {job.fine_tuned_model}, says {said!r}"


print(asyncio.run(flow()))
