// @ts-check
/** What came of a job: checkpoints, the model's files, how to serve them, and other forms of it. */
import { html, useEffect } from "../../vendor/preact.js";
import { jobPath } from "../../api.js";
import { useLoaded } from "../../loaded.js";
import { Await, Section, Table, Time } from "../../parts/basics.js";
import { Serving } from "../../parts/serving.js";
import { href } from "../../router.js";
import { useMay } from "../../session.js";
import { bytes, count, measure } from "../../words.js";
import { bestOf } from "./charts.js";
import { ModelLink } from "./overview.js";
import { Exports, isWhole } from "./exports.js";
import { ENDED } from "./state.js";

export function Results({ job, live }) {
  const checkpoints = useLoaded(jobPath(job.id, "/checkpoints"), { limit: 100 });
  const artifacts = useLoaded(jobPath(job.id, "/artifacts"));
  const newest = live.messages[0]?.id;
  useEffect(() => checkpoints.reload(), [newest]);
  useEffect(() => artifacts.reload(), [job.status]);
  return html`
    <${Section} title="Model">
      ${job.fine_tuned_model
        ? html`<p>The tuned model is <${ModelLink} name=${job.fine_tuned_model} />. It answers at this
          service's own address. To serve it elsewhere:</p>
          <${Serving} name=${job.fine_tuned_model} />`
        : html`<p class="quiet">${ENDED.has(job.status)
            ? "It has none: the job has not succeeded, or the model was deleted."
            : "The model is published when the job succeeds."}</p>`}
      <${Await} loaded=${artifacts}>
        ${(/** @type {any} */ found) => found.data.length > 0 && html`<${Artifacts} job=${job} files=${found.data} />`}
      </${Await}>
      ${job.result_files[0] && html`<p class="small">
        <a download href=${`/v1/files/${job.result_files[0]}/content`}>The metrics of each step, as CSV</a></p>`}
    </${Section}>
    <${Section} title="Checkpoints">
      <${Await} loaded=${checkpoints}>
        ${(/** @type {any} */ found) =>
          found.data.length
            ? html`<${Checkpoints} rows=${found.data} whole=${isWhole(job)} />`
            : html`<p class="quiet">None is kept. ${ENDED.has(job.status) ? "" : "The last two are, and the best, once there are some."}</p>`}
      </${Await}>
    </${Section}>
    <${Exports} job=${job} checkpoints=${checkpoints.data?.data ?? []} />
  `;
}

export const fileColumns = (/** @type {(file: any) => string} */ path) => [
  { name: "File", cell: (/** @type {any} */ file) => html`<a download=${file.name} href=${path(file)}><bdi>${file.name}</bdi></a>` },
  { name: "Size", cell: (/** @type {any} */ file) => bytes(file.bytes), number: true },
  { name: "SHA-256", cell: (/** @type {any} */ file) => html`<code title=${file.sha256}>${file.sha256.slice(0, 12)}…</code>` },
];

const Artifacts = ({ job, files }) => html`
  <${Table} label="Files of the model" rows=${files} id=${(/** @type {any} */ file) => file.name}
    columns=${fileColumns((file) => jobPath(job.id, `/artifacts/${encodeURIComponent(file.name)}`))} />
`;

const Best = () => html`<span class="status good"><span aria-hidden="true">★</span> best</span>`;

function Checkpoints({ rows, whole }) {
  const writes = useMay("write");
  const best = bestOf(rows);
  return html`<${Table} label="Checkpoints" rows=${rows} columns=${[
    {
      name: "Step",
      cell: (row) => html`<span>${count(row.step_number)} ${row === best && html`<${Best} />`}</span>`,
    },
    { name: "Validation loss", cell: (row) => measure(row.metrics.valid_loss), number: true },
    { name: "Training loss", cell: (row) => measure(row.metrics.train_loss), number: true },
    { name: "Kept", cell: (row) => html`<${Time} at=${row.created_at} />` },
    { name: "As a model", cell: (row) => html`<code><bdi>${row.fine_tuned_model_checkpoint}</bdi></code>` },
    // A job goes on from an adapter only.
    writes && !whole && {
      name: "Train on",
      hidden: true,
      cell: (row) => html`<a href=${href("/new", { model: row.fine_tuned_model_checkpoint })}>Train on from it</a>`,
    },
  ].filter(Boolean)} />`;
}
