// @ts-check
/** Each claim of a job by a worker: where it ran, for how long, how it ended. */
import { html } from "../../vendor/preact.js";
import { Await, Section, Status, Time } from "../../parts/basics.js";
import { count, duration } from "../../words.js";
import { ENDED } from "./state.js";

const OUTCOMES = {
  succeeded: ["succeeded", "succeeded"],
  failed: ["failed", "failed"],
  cancelled: ["cancelled", "cancelled"],
  paused: ["paused", "paused"],
  lost: ["failed", "worker lost"],
  released: ["paused", "given back by its worker"],
};
const PHASES = {
  base: "with the base model",
  training_file: "with the training file",
  validation_file: "with the validation file",
  training: "in the training",
  publishing: "while publishing",
};

export function Attempts({ loaded, job }) {
  return html`
    <${Section} title="Attempts">
      <${Await} loaded=${loaded}>
        ${(/** @type {any} */ found) =>
          found.data.length
            ? html`<ol class="timeline" reversed>${found.data.map(
                (/** @type {any} */ attempt) => html`<${Attempt} key=${attempt.id} attempt=${attempt} job=${job} />`,
              )}</ol>`
            : html`<p class="quiet">${ENDED.has(job.status) ? "No worker had claimed it." : "No worker has claimed it yet."}</p>`}
      </${Await}>
    </${Section}>
  `;
}

function Attempt({ attempt, job }) {
  const [status, words] = OUTCOMES[/** @type {keyof typeof OUTCOMES} */ (attempt.outcome)] ?? ["running", "running"];
  const step = attempt.outcome ? attempt.step : (job.tunery.progress?.step ?? 0);
  const where = PHASES[/** @type {keyof typeof PHASES} */ (attempt.phase)];
  return html`
    <li>
      <p><strong>Attempt ${attempt.number}</strong> <${Status} of=${status} word=${words} />
        ${" "}on <bdi>${attempt.worker}</bdi></p>
      <p class="small quiet"><${Time} at=${attempt.started_at} />${attempt.seconds != null && `, for ${duration(attempt.seconds)}`},
        ${step ? ` to step ${count(step)}` : " no step yet"}</p>
      ${attempt.message && html`<p class="small">${where && `It failed ${where}: `}<bdi>${attempt.message}</bdi></p>`}
    </li>
  `;
}
