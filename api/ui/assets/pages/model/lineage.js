// @ts-check
/** Base → job → tuned model → the jobs that go on from it. */
import { html, useEffect, useState } from "../../vendor/preact.js";
import { Fault, get, modelPath } from "../../api.js";
import { useLoaded } from "../../loaded.js";
import { FaultNotice, Status } from "../../parts/basics.js";
import { href } from "../../router.js";
import { isCheckpoint, modelHref } from "./words.js";

const MOST_BACK = 20;
const MOST_JOBS = 50;

/** @param {{model: any}} props A model object. */
export function Lineage({ model }) {
  const before = useAncestors(model);
  const jobs = useLoaded("/v1/fine_tuning/jobs", { model: model.id, limit: MOST_JOBS }, { every: 5_000 });
  const steps = model.base_model ? [...before.found].reverse() : [];
  return html`
    <${FaultNotice} fault=${before.fault} />
    <ol class="lineage" aria-label="Lineage">
      ${model.base_model &&
      html`<li><span class="quiet">Base model</span> <a href=${modelHref(model.base_model)}>${model.base_model}</a></li>`}
      ${steps.map((one) => html`<${Made} model=${one} />`)}
      <${Made} model=${model} here />
      <${Jobs} jobs=${jobs} isBase=${!model.base_model} />
    </ol>
  `;
}

/** A model of the line, with the job that made it. */
function Made({ model, here = false }) {
  const kind = !model.base_model ? "Base model" : isCheckpoint(model.id) ? "Checkpoint" : "Tuned model";
  return html`
    ${model.job_id &&
    html`<li><span class="quiet">Job</span> <a href=${href(`/jobs/${model.job_id}`)}>${model.job_id}</a></li>`}
    <li aria-current=${here ? "true" : undefined}>
      <span class="quiet">${kind}</span>
      ${here
        ? html` <strong>${model.id}</strong> (this one)`
        : model.gone
          ? html` ${model.id} (deleted, or no longer shared)`
          : html` <a href=${modelHref(model.id)}>${model.id}</a>`}
    </li>
  `;
}

function Jobs({ jobs, isBase }) {
  if (jobs.data === null) {
    return html`<li>${jobs.fault ? html`<${FaultNotice} fault=${jobs.fault} />` : "Loading …"}</li>`;
  }
  const found = jobs.data.data;
  if (!found.length) {
    return html`<li class="quiet">${isBase ? "No job of this project is on it yet." : "No job goes on from it yet."}</li>`;
  }
  return html`<li>
    <span class="quiet">${isBase ? "Jobs on it" : "Jobs that go on from it"}</span>
    <ul>
      ${found.map(
        (/** @type {any} */ job) => html`<li key=${job.id}>
          <a href=${href(`/jobs/${job.id}`)}>${job.id}</a> <${Status} of=${job.status} />
          ${job.fine_tuned_model &&
          html` → <a href=${modelHref(job.fine_tuned_model)}>${job.fine_tuned_model}</a>`}
        </li>`,
      )}
      ${jobs.data.has_more && html`<li class="quiet">and older ones</li>`}
    </ul>
  </li>`;
}

/**
 * The tuned models that this one goes on from, the nearest first.
 * @param {any} model
 * @returns {{found: any[], fault: Fault | null}}
 */
function useAncestors(model) {
  const [state, setState] = useState(
    /** @type {{found: any[], fault: Fault | null}} */ ({ found: [], fault: null }),
  );
  useEffect(() => {
    const gone = new AbortController();
    const look = async () => {
      const found = [];
      let name = model.went_on_from;
      while (name && found.length < MOST_BACK) {
        const one = await get(modelPath(name), {}, gone.signal).catch((fault) => {
          if (fault.status === 404) return { id: name, gone: true, base_model: model.base_model };
          throw fault;
        });
        found.push(one);
        name = one.went_on_from;
      }
      return found;
    };
    look().then(
      (found) => gone.signal.aborted || setState({ found, fault: null }),
      (fault) => gone.signal.aborted || setState({ found: [], fault }),
    );
    return () => gone.abort();
  }, [model.id]);
  return state;
}
