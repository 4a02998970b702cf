// @ts-check
/** How a job stands, what it was made from, and all that happened to it. */
import { html, useEffect } from "../../vendor/preact.js";
import { jobPath } from "../../api.js";
import { useLoaded } from "../../loaded.js";
import { Facts, Section, Time } from "../../parts/basics.js";
import { href } from "../../router.js";
import { modelHref } from "../model/words.js";
import { Attempts } from "./attempts.js";
import { Evaluation } from "./evaluation.js";
import { Events } from "./events.js";
import { Lines } from "./lines.js";
import { Expected, Settings } from "./settings.js";
import { State } from "./state.js";

export function Overview({ job, live }) {
  const attempts = useAttempts(job);
  return html`
    <${State} job=${job} live=${live} attempts=${attempts.data?.data} />
    <${Evaluation} job=${job} />
    <div class="columns">
      <${About} job=${job} />
      <${Expected} job=${job} curves=${live.curves} attempts=${attempts.data?.data} />
    </div>
    <${Settings} job=${job} />
    <${Attempts} loaded=${attempts} job=${job} />
    <${Events} live=${live} />
    <${Lines} job=${job} />
  `;
}

/** The job's attempts, anew when there is another or one has ended. */
export function useAttempts(job) {
  const attempts = useLoaded(jobPath(job.id, "/attempts"));
  useEffect(() => attempts.reload(), [job.tunery.attempts, job.status]);
  return attempts;
}

/** @param {{name: string}} props */
export const ModelLink = ({ name }) => html`<a href=${modelHref(name)}><bdi>${name}</bdi></a>`;

function About({ job }) {
  const { tunery } = job;
  const file = (/** @type {string | null} */ id) =>
    id && html`<a href=${href(`/files/${id}`)}><code>${id}</code></a>`;
  return html`
    <${Section} title="Details">
      <${Facts} pairs=${[
        ["Created", html`<${Time} at=${job.created_at} />`],
        ["Ended", job.finished_at && html`<${Time} at=${job.finished_at} />`],
        ["Model", html`<${ModelLink} name=${job.model} />`],
        ["Base model", tunery.base_model === job.model ? null : html`<${ModelLink} name=${tunery.base_model} />`],
        ["Revision of the base", tunery.base_revision && html`<code>${tunery.base_revision}</code>`],
        ["Method", job.method.type],
        ["Training file", file(job.training_file)],
        ["Validation file", file(job.validation_file)],
        ["Seed", String(job.seed)],
        ...Object.entries(job.metadata ?? {}).map(([key, value]) => [html`<bdi>${key}</bdi>`, html`<bdi>${value}</bdi>`]),
      ]} />
    </${Section}>
  `;
}
