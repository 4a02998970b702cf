// @ts-check
/** How a job stands, in words: what it does, what it waits for, how far it is, what went wrong. */
import { html } from "../../vendor/preact.js";
import { Facts, Meter, Notice, Section, Time } from "../../parts/basics.js";
import { Spark, smoothed } from "../../parts/spark.js";
import { bytes, count, measure, plural, span } from "../../words.js";

export const ENDED = new Set(["succeeded", "failed", "cancelled"]);
const SPARK_POINTS = 60;
const RECENT = 0.2;

const CLASSES = {
  user: "Its data or settings are at fault.",
  infra: "A machine failed.",
  oom: "It ran out of memory.",
  base: "The base model is at fault.",
  preempted: "It was ended from outside.",
  poisoned: "Several attempts in a row got no further.",
  away: "Storage or the service was away for too long.",
  storage: "Stored bytes are gone or damaged.",
};

/** @param {any} job @param {string | undefined} worker @returns {any} Its state in a sentence. */
function sentence(job, worker) {
  const { progress, fetching, wanted, queue } = job.tunery;
  const step = progress && `step ${count(progress.step)} of ${count(progress.total_steps)}`;
  switch (job.status) {
    case "validating_files":
      return wanted === "pause" ? "Its files are being checked; then it pauses." : "Its files are being checked; then it is queued.";
    case "queued":
      return queue ? `It waits for a worker. ${queue.reason}` : "It waits for a worker.";
    case "running":
      if (wanted === "cancel") return "It is being cancelled: its worker stops at its next step.";
      if (wanted === "pause") return "It is being paused: its worker keeps a checkpoint and stops.";
      if (fetching) return "Its worker fetches the base model.";
      if (step && progress.step) return html`It trains${worker && html` on <bdi>${worker}</bdi>`}, at ${step}.`;
      return html`${worker ? html`Worker <bdi>${worker}</bdi>` : "A worker"} has it and prepares the training.`;
    case "paused":
      return step && progress.step
        ? `It is paused at ${step}, with a checkpoint. It goes on from there when you resume it.`
        : "It is paused. It is queued again when you resume it.";
    case "succeeded":
      return html`It has succeeded. The tuned model is <bdi><code>${job.fine_tuned_model}</code></bdi>.`;
    case "failed":
      return `It has failed. ${CLASSES[/** @type {keyof typeof CLASSES} */ (job.tunery.failure_class)] ?? ""}`;
    case "cancelled":
      return step && progress.step ? `It was cancelled at ${step}.` : "It was cancelled before it began.";
    default:
      return `Its state is ${job.status}.`;
  }
}

export function State({ job, live, attempts }) {
  const { warnings, fetching } = job.tunery;
  return html`
    ${job.error && html`<div class="notice bad" role="alert">
      <p><bdi>${job.error.message}</bdi></p>
      <p class="small">${job.error.code}${job.error.param && html`, in <code>${job.error.param}</code>`}</p>
    </div>`}
    ${warnings?.length > 0 && html`<${Notice} tone="warn">
      <strong>${plural(warnings.length, "warning")}</strong>
      <ul class="plainly">${warnings.map((/** @type {string} */ words) => html`<li><bdi>${words}</bdi></li>`)}</ul>
    </${Notice}>`}
    <${Section} title="State">
      <p class="lead">${sentence(job, attempts?.[0]?.worker)}</p>
      ${job.status === "queued" && job.tunery.queue && html`<${Queue} queue=${job.tunery.queue} />`}
      ${fetching && html`<div>
        <${Meter} value=${fetching.bytes} most=${fetching.total_bytes} label="Base model fetched" />
        <p class="small quiet">${bytes(fetching.bytes)} of ${bytes(fetching.total_bytes)} of the base model</p>
      </div>`}
      <${Progress} job=${job} curves=${live.curves} base=${baseLoss(live.messages)} />
    </${Section}>
  `;
}

const Queue = ({ queue }) => html`
  <${Facts} pairs=${[
    ["Place in the queue", queue.position == null ? "behind more than 1,000" : count(queue.position)],
    ["Jobs before it", queue.jobs_ahead == null ? "more than 1,000" : count(queue.jobs_ahead)],
    [
      "Expected to start",
      start(queue.expected_start),
    ],
  ]} />
`;

/** @param {[number, number] | null} range Unix seconds. */
function start(range) {
  if (!range) return "not known";
  if (range[1] < Date.now() / 1000 + 60) return "within a minute";
  return html`<${Time} at=${range[0]} /> to <${Time} at=${range[1]} />`;
}

/** The validation loss of the model that the training started from. @param {any[]} messages */
export const baseLoss = (messages) =>
  messages.findLast((event) => event.tunery?.base_valid_loss != null)?.tunery.base_valid_loss;

function Progress({ job, curves, base }) {
  const { progress } = job.tunery;
  if (!progress) return null;
  const columns = curves?.columns ?? { step: [] };
  // The stream is ahead of the job, which is asked for every two seconds.
  const step = Math.max(progress.step, columns.step.at(-1) ?? 0);
  const total = curves?.totalSteps ?? progress.total_steps;
  const losses = (columns.train_loss ?? []).filter((/** @type {any} */ loss) => loss != null);
  const every = Math.max(1, Math.floor(losses.length / SPARK_POINTS));
  const smooth = smoothed(losses, 0.8).filter((_, i) => i % every === 0 || i === losses.length - 1);
  const validated = (columns.valid_loss ?? []).filter((/** @type {any} */ loss) => loss != null);
  const left = job.status === "running" ? timeLeft(job, columns, total) : null;
  return html`
    <div>
      <${Meter} value=${step} most=${total} label="Steps taken" />
      <p class="small quiet">Step ${count(step)} of ${count(total)} (${Math.floor((100 * step) / total)} %)</p>
    </div>
    <${Facts} pairs=${[
      ["Time left", left && span(left)],
      ["May finish", left && job.estimated_finish && html`<${Time} at=${job.estimated_finish} />`],
      [
        "Training loss",
        losses.length ? html`<span class="live-loss">${measure(losses.at(-1))}
          <${Spark} values=${smooth} label="The training loss so far" /></span>` : null,
      ],
      ["Validation loss", validated.length ? fall(base == null ? validated : [base, ...validated]) : null],
      ["Trained tokens", job.trained_tokens && count(job.trained_tokens)],
    ]} />
  `;
}

/** @param {number[]} values */
const fall = (values) =>
  values.length > 1 ? `${measure(values[0])} → ${measure(values.at(-1))}, best ${measure(Math.min(...values))}` : measure(values[0]);

/**
 * By the pace of the whole training and by that of its last part: at least and at most.
 * @param {any} job @param {Record<string, any[]>} columns @param {number} total
 * @returns {[number, number] | null} Seconds.
 */
export function timeLeft(job, columns, total) {
  const steps = columns.step;
  const times = columns.elapsed_seconds ?? [];
  const said = job.tunery.progress.seconds_left;
  const last = steps.length - 1;
  const found = said == null ? [] : [said];
  for (const from of [0, Math.floor(last * (1 - RECENT))]) {
    const taken = steps[last] - steps[from];
    const seconds = times[last] - times[from];
    if (taken > 0 && seconds > 0) found.push(((total - steps[last]) * seconds) / taken);
  }
  return found.length ? [Math.min(...found), Math.max(...found)] : null;
}

/** Seconds that a job had a device, over its attempts. @param {any[] | undefined} attempts */
export const secondsTaken = (attempts) =>
  attempts?.reduce((sum, attempt) => sum + (attempt.seconds ?? Date.now() / 1000 - attempt.started_at), 0);
