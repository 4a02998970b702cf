// @ts-check
/** What a tuned model was trained on, by its job. */
import { html } from "../../vendor/preact.js";
import { jobPath } from "../../api.js";
import { useLoaded } from "../../loaded.js";
import { Await, Facts, Section, Time } from "../../parts/basics.js";
import { href } from "../../router.js";
import { count } from "../../words.js";

/** @param {{jobId: string}} props */
export function Training({ jobId }) {
  const job = useLoaded(jobPath(jobId));
  return html`<${Section} title="What it was trained on">
    <${Await} loaded=${job}>${(/** @type {any} */ found) => html`<${Told} job=${found} />`}</${Await}>
  </${Section}>`;
}

function Told({ job }) {
  const { training, lora, max_length: maxLength } = job.tunery;
  return html`<${Facts} pairs=${[
    ["Training file", html`<${FileLink} id=${job.training_file} />`],
    ["Validation file", job.validation_file && html`<${FileLink} id=${job.validation_file} />`],
    ["Method", `${job.method.type}, ${lora ? "an adapter (LoRA)" : "all weights"}`],
    ["Adapter", lora && `rank ${lora.r}, alpha ${lora.alpha}`],
    ["Epochs", training && count(training.n_epochs)],
    ["Maximum length", maxLength && `${count(maxLength)} tokens`],
    ["Tokens trained on", count(job.trained_tokens)],
    ["Seed", String(job.seed)],
    ["Finished", html`<${Time} at=${job.finished_at} />`],
    ["Job", html`<a href=${href(`/jobs/${job.id}`)}>${job.user_provided_suffix ? html`<bdi>${job.user_provided_suffix}</bdi>` : job.id}</a>`],
  ]} />`;
}

/** Its name, if it is there still. */
function FileLink({ id }) {
  const file = useLoaded(`/v1/files/${encodeURIComponent(id)}`);
  if (file.fault?.status === 404) return html`${id} (deleted)`;
  return html`<a href=${href(`/files/${id}`)}><bdi>${file.data?.filename ?? id}</bdi></a>`;
}
