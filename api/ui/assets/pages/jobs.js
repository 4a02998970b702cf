// @ts-check
/** `#/jobs`: the project's jobs, as they are now. */
import { html } from "../vendor/preact.js";
import { useLoaded } from "../loaded.js";
import { Await, Empty, LinkButton, Page, Status, Table, Time } from "../parts/basics.js";
import { href } from "../router.js";
import { useMay } from "../session.js";

const EVERY_MS = 1_500;

/** @param {import("../router.js").PageProps} props */
export default function Jobs({ query }) {
  const writes = useMay("write");
  const jobs = useLoaded(
    "/v1/fine_tuning/jobs",
    { limit: 20, status: query.getAll("status"), q: query.get("q"), after: query.get("after") },
    { every: EVERY_MS },
  );
  const start = writes && html`<${LinkButton} href="#/new" main>New fine-tune</${LinkButton}>`;
  return html`
    <${Page} title="Jobs" actions=${start}>
      <${Await} loaded=${jobs}>
        ${(/** @type {any} */ found) =>
          found.data.length
            ? html`<${Table} label="Jobs" rows=${found.data} columns=${[
                { name: "Job", cell: (job) => html`<a href=${href(`/jobs/${job.id}`)}>${job.user_provided_suffix ?? job.id}</a>` },
                { name: "State", cell: (job) => html`<${Status} of=${job.status} />` },
                { name: "Base", cell: (job) => job.model },
                { name: "Created", cell: (job) => html`<${Time} at=${job.created_at} />` },
              ]} />`
            : html`<${Empty} title="No jobs yet">
                <p>Upload a data set, choose a base model, and start.</p>${start}
              </${Empty}>`}
      </${Await}>
    </${Page}>
  `;
}
