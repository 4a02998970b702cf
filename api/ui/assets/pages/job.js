// @ts-check
/** `#/jobs/ID`: one job, in several views. */
import { html, useEffect, useState } from "../vendor/preact.js";
import { jobPath } from "../api.js";
import { useLoaded } from "../loaded.js";
import { FaultNotice, LinkButton, Notice, Page, Status, Tabs } from "../parts/basics.js";
import { href } from "../router.js";
import { Actions } from "./job/actions.js";
import { Charts } from "./job/charts.js";
import { Data } from "./job/data.js";
import { useLive } from "./job/live.js";
import { Log } from "./job/log.js";
import { Overview } from "./job/overview.js";
import { Results } from "./job/results.js";
import { Samples } from "./job/samples.js";
import { ENDED } from "./job/state.js";

const VIEWS = {
  overview: ["Overview", Overview],
  charts: ["Charts", Charts],
  samples: ["Samples", Samples],
  data: ["Data", Data],
  log: ["Log", Log],
  results: ["Results", Results],
};
const EVERY_MS = 2_000;
// It may be deleted from elsewhere.
const EVERY_MS_ENDED = 15_000;

/** @param {import("../router.js").PageProps} props */
export default function Job({ params, query }) {
  const { id, view = "overview" } = params;
  const [ended, setEnded] = useState(false);
  const job = useLoaded(jobPath(id), {}, { every: ended ? EVERY_MS_ENDED : EVERY_MS });
  const live = useLive(id, job.reload);
  const found = job.data;
  useEffect(() => setEnded(ENDED.has(found?.status)), [found?.status]);

  const name = found?.user_provided_suffix ?? id;
  const trail = html`<a href="#/jobs">Jobs</a> › <bdi>${name}</bdi>`;
  if (job.fault?.status === 404) {
    return html`<${Page} title=${found ? "This job was deleted" : "No such job"} trail=${trail}>
      <${Notice} tone="warn"><p>${found ? `Job ${id} was deleted while you looked at it.` : job.fault.message}</p></${Notice}>
      <p><${LinkButton} href="#/jobs" main>Go to the jobs</${LinkButton}></p>
    </${Page}>`;
  }
  if (!found) {
    return html`<${Page} title=${name} trail=${trail}>
      ${job.fault
        ? html`<${FaultNotice} fault=${job.fault} reload=${job.reload} />`
        : html`<p class="quiet" role="status">Loading …</p>`}
    </${Page}>`;
  }
  const tabs = Object.entries(VIEWS).map(([key, [title]]) => [
    title,
    href(key === "overview" ? `/jobs/${id}` : `/jobs/${id}/${key}`),
  ]);
  const known = VIEWS[/** @type {keyof typeof VIEWS} */ (view)];
  return html`
    <${Page} title=${name} trail=${trail} actions=${html`<${Actions} job=${found} reload=${job.reload} />`}>
      <p class="under-heading"><span role="status"><${Status} of=${found.status} /></span> <code>${id}</code>
        <span class="quiet"> on <bdi>${found.model}</bdi></span></p>
      <${Tabs} label="Views of the job" tabs=${tabs} current=${known?.[0]} />
      ${known
        ? html`<${known[1]} job=${found} live=${live} query=${query} />`
        : html`<${Notice} tone="warn"><p>A job has no view ${view}.</p></${Notice}>`}
    </${Page}>
  `;
}
