// @ts-check
/** `#/compare?id=…&id=…`: up to five jobs over one another, and what is different about them. */
import { html, useState } from "../vendor/preact.js";
import { jobPath } from "../api.js";
import { useLoaded } from "../loaded.js";
import { Await, Empty, FaultNotice, LinkButton, Page, Section, Status, Table } from "../parts/basics.js";
import { Chart } from "../parts/chart.js";
import { smoothed } from "../parts/spark.js";
import { href } from "../router.js";
import { count, duration, measure } from "../words.js";

const MOST = 5;
const POINTS = 400;
const EVERY_MS = 2_000;
const SMOOTHING = 0.8;

/** @typedef {{job: any, curves: any}} Run */

/** @param {import("../router.js").PageProps} props */
export default function Compare({ query }) {
  const ids = [...new Set(query.getAll("id"))].slice(0, MOST);
  const trail = html`<a href="#/jobs">Jobs</a>`;
  if (ids.length < 2) {
    return html`<${Page} title="Compare jobs" trail=${trail}>
      <${Empty} title="Choose two to five jobs">
        <p>Mark them in the list of jobs, then press Compare.</p>
        <${LinkButton} href="#/jobs" main>Go to the jobs</${LinkButton}>
      </${Empty}>
    </${Page}>`;
  }
  return html`<${Page} title="Compare jobs" trail=${trail}>
    <${Gather} key=${ids.join()} ids=${ids} runs=${[]} />
  </${Page}>`;
}

/** Loads one job after the other, and shows them when all are there. */
function Gather({ ids, runs }) {
  const id = ids[runs.length];
  const unfinished = (/** @type {any} */ found) => !["succeeded", "failed", "cancelled"].includes(found.status);
  const job = useLoaded(id ? jobPath(id) : null, {}, { every: EVERY_MS, until: (found) => !unfinished(found) });
  const live = job.data && unfinished(job.data);
  const curves = useLoaded(id ? jobPath(id, "/metrics") : null, { limit: POINTS }, live ? { every: EVERY_MS } : {});
  if (!id) return html`<${Comparison} runs=${runs} />`;
  const fault = job.fault ?? curves.fault;
  if (fault && !(job.data && curves.data)) return html`<${FaultNotice} fault=${fault} />`;
  return html`<${Await} loaded=${job}>
    ${() => html`<${Await} loaded=${curves}>
      ${() => html`<${Gather} ids=${ids} runs=${[...runs, { job: job.data, curves: curves.data }]} />`}
    </${Await}>`}
  </${Await}>`;
}

/** @param {{runs: Run[]}} props */
function Comparison({ runs }) {
  const [raw, setRaw] = useState(false);
  const names = namesOf(runs);
  return html`
    <${Section} title="Results">
      <div class="scroll" tabindex="0" role="region" aria-label="Each job">
        <${Table} label="Results" rows=${runs} id=${(/** @type {Run} */ run) => run.job.id} columns=${[
          { name: "Job", cell: (/** @type {Run} */ run) => html`<a href=${href(`/jobs/${run.job.id}`)}><bdi>${names.get(run)}</bdi></a>` },
          { name: "State", cell: (/** @type {Run} */ run) => html`<${Status} of=${run.job.status} />` },
          { name: "Training loss", number: true, cell: (/** @type {Run} */ run) => measure(column(run, "train_loss").at(-1)) },
          { name: "Best validation loss", number: true, cell: (/** @type {Run} */ run) => measure(lowest(column(run, "valid_loss"))) },
          { name: "Steps", number: true, cell: (/** @type {Run} */ run) => count(run.job.tunery.progress?.step) },
          { name: "Trained tokens", number: true, cell: (/** @type {Run} */ run) => count(run.job.trained_tokens) },
          { name: "Time", number: true, cell: (/** @type {Run} */ run) => duration(column(run, "elapsed_seconds").at(-1)) },
        ]} />
      </div>
    </${Section}>
    <${Section} title="Curves" actions=${html`<button type="button" class="small" aria-pressed=${raw}
      onClick=${() => setRaw(!raw)}>Without smoothing</button>`}>
      <${Curves} title="Training loss" of="train_loss" runs=${runs} names=${names} weight=${raw ? 0 : SMOOTHING} />
      <${Curves} title="Validation loss" of="valid_loss" runs=${runs} names=${names} weight=${0} dots />
    </${Section}>
    <${Section} title="Settings that differ"><${Differences} runs=${runs} names=${names} /></${Section}>
  `;
}

/** @param {Run[]} runs @returns {Map<Run, string>} A suffix that two share is not enough. */
function namesOf(runs) {
  const suffixes = runs.map((run) => run.job.user_provided_suffix);
  return new Map(
    runs.map((run, i) => {
      const own = suffixes[i] && suffixes.filter((one) => one === suffixes[i]).length === 1;
      return [run, own ? suffixes[i] : `${suffixes[i] ? `${suffixes[i]}, ` : ""}${run.job.id}`];
    }),
  );
}

/** @param {Run} run @param {string} name @returns {any[]} What was measured of it. */
const column = (run, name) => pairs(run, name).map(([, value]) => value);

/** @param {any[]} values */
const lowest = (values) => (values.length ? Math.min(...values) : null);

/** @param {Run} run @param {string} name @returns {[number, number][]} Step and value. */
function pairs(run, name) {
  const at = run.curves.columns.indexOf(name);
  const step = run.curves.columns.indexOf("step");
  return run.curves.points
    .filter((/** @type {any[]} */ point) => at >= 0 && point[at] != null)
    .map((/** @type {any[]} */ point) => [point[step], point[at]]);
}

function Curves({ title, of, runs, names, weight, dots = false }) {
  const measured = runs.map((/** @type {Run} */ run) => new Map(pairs(run, of)));
  if (measured.every((/** @type {Map<any, any>} */ one) => !one.size)) {
    return html`<p class="quiet">${title}: none of these jobs measured it.</p>`;
  }
  const steps = [...new Set(measured.flatMap((/** @type {Map<number, number>} */ one) => [...one.keys()]))].sort((a, b) => a - b);
  const lines = runs.map((/** @type {Run} */ run, /** @type {number} */ i) => ({
    name: names.get(run),
    values: smoothed(steps.map((step) => measured[i].get(step) ?? null), weight),
    dots,
  }));
  return html`<${Chart} title=${title} x=${{ name: "step", values: steps }} lines=${lines} />`;
}

/** @param {any} job @returns {Record<string, string>} */
function settingsOf(job) {
  const { training, lora, base_model } = job.tunery;
  const flat = {
    model: job.model,
    base_model,
    method: job.method.type,
    training_file: job.training_file,
    validation_file: job.validation_file,
    seed: job.seed,
    ...job.hyperparameters,
    ...training,
    ...Object.fromEntries(Object.entries(lora ?? {}).map(([name, value]) => [`lora.${name}`, value])),
    ...Object.fromEntries(Object.entries(job.metadata ?? {}).map(([name, value]) => [`metadata.${name}`, value])),
  };
  return Object.fromEntries(
    Object.entries(flat).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]),
  );
}

function Differences({ runs, names }) {
  const settings = runs.map((/** @type {Run} */ run) => settingsOf(run.job));
  const all = [...new Set(settings.flatMap((/** @type {any} */ one) => Object.keys(one)))];
  const different = all.filter((name) => new Set(settings.map((/** @type {any} */ one) => one[name])).size > 1);
  if (!different.length) return html`<p>These jobs have the same settings.</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Each setting">
    <table class="table plain">
      <thead><tr><th scope="col">Setting</th>
        ${runs.map((/** @type {Run} */ run) => html`<th scope="col"><bdi>${names.get(run)}</bdi></th>`)}</tr></thead>
      <tbody>
        ${different.map((name) => html`<tr>
          <th scope="row"><bdi>${name}</bdi></th>
          ${settings.map((/** @type {any} */ one) => html`<td><bdi>${one[name] ?? "–"}</bdi></td>`)}
        </tr>`)}
      </tbody>
    </table>
  </div>`;
}
