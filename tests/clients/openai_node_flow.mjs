// openai-node: upload, create, follow, page, cancel, pause and resume.
import assert from 'node:assert';
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI from 'openai';

const client = new OpenAI();
const { jobs } = client.fineTuning;
const model = process.env.MODEL;

const file = await client.files.create({
  file: fs.createReadStream(process.env.DATA),
  purpose: 'fine-tune',
});
assert.equal((await client.files.waitForProcessing(file.id)).status, 'processed');
let job = await jobs.create({
  model,
  training_file: file.id,
  method: { type: 'supervised', supervised: { hyperparameters: { n_epochs: 2 } } },
  metadata: { client: 'node' },
});
while (!['succeeded', 'failed', 'cancelled'].includes(job.status)) {
  await sleep(1000);
  job = await jobs.retrieve(job.id);
}
assert.equal(job.status, 'succeeded', JSON.stringify(job));
const events = [];
for await (const event of jobs.listEvents(job.id, { limit: 5 })) events.push(event);
assert.ok(events.some((event) => event.type === 'metrics'));
const checkpoints = [];
for await (const each of jobs.checkpoints.list(job.id)) checkpoints.push(each);
assert.ok(checkpoints.length > 0);
const listed = [];
for await (const each of jobs.list({ limit: 2, metadata: { client: 'node' } })) listed.push(each.id);
assert.deepEqual(listed, [job.id]);
const results = await (await client.files.content(job.result_files[0])).text();
assert.ok(results.startsWith('step,'));
assert.equal((await client.models.retrieve(job.fine_tuned_model)).id, job.fine_tuned_model);
const names = [];
for await (const each of client.models.list()) names.push(each.id);
assert.ok(names.includes(job.fine_tuned_model));

const messages = [{ role: 'user', content: 'What is 2 and one?' }];
const asked = { model: job.fine_tuned_model, messages, max_tokens: 20, temperature: 0 };
const chat = await client.chat.completions.create(asked);
assert.ok(chat.choices[0].message.content);
let said = '';
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true }))
  said += chunk.choices[0].delta.content ?? '';
assert.equal(said, chat.choices[0].message.content);
const text = await client.completions.create({
  model: checkpoints[0].fine_tuned_model_checkpoint,
  prompt: 'It is',
});
assert.ok(text.usage.completion_tokens);
const response = await client.responses.create({ model, input: 'What is 2 and one?' });
assert.ok(response.output_text);

const other = await jobs.create({
  model,
  training_file: file.id,
  hyperparameters: { n_epochs: 50 },
});
await jobs.pause(other.id);
await jobs.resume(other.id);
await jobs.cancel(other.id);
while ((await jobs.retrieve(other.id)).status !== 'cancelled') await sleep(500);
await assert.rejects(client.files.retrieve('file-nothing'), (error) => {
  assert.ok(error instanceof OpenAI.NotFoundError && error.code === 'not_found');
  return Boolean(error.requestID);
});
assert.ok((await client.files.delete(file.id)).deleted);

const bytes = fs.readFileSync(process.env.DATA);
const upload = await client.uploads.create({
  bytes: bytes.length,
  filename: 'data.jsonl',
  mime_type: 'text/jsonl',
  purpose: 'fine-tune',
});
const parts = [bytes.subarray(0, 1000), bytes.subarray(1000)];
const ids = [];
for (const part of parts) {
  const data = await OpenAI.toFile(part, 'part');
  ids.push((await client.uploads.parts.create(upload.id, { data })).id);
}
const whole = await client.uploads.complete(upload.id, { part_ids: ids });
assert.equal(whole.status, 'completed');
assert.equal((await client.files.retrieve(whole.file.id)).status, 'processed');
console.log(
  `${events.length} events, ${checkpoints.length} checkpoints, ${job.fine_tuned_model}, which says ` +
    `${JSON.stringify(said)}; ` +
    'another paused, resumed, cancelled; uploaded in parts',
);
