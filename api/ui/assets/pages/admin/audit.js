// @ts-check
/** `#/admin/audit`: who changed what, and when. */
import { html } from "../../vendor/preact.js";
import { useLoaded } from "../../loaded.js";
import { Await, Empty, Field, Page, Section, Table, Time } from "../../parts/basics.js";
import { Pager } from "../../parts/pager.js";
import { go, href } from "../../router.js";

// What the service records: a thing, and what was done with it.
const ACTIONS = [
  "endpoint.create", "endpoint.delete", "export.cancel", "export.create", "export.delete",
  "file.create", "file.delete", "integration.delete", "integration.put", "job.cancel",
  "job.create", "job.delete", "job.pause", "job.resume", "key.create", "key.revoke",
  "key.rotate", "model.delete", "model.register", "model.remove", "model.send_file",
  "model.send_tokenizer", "permission.create", "permission.delete", "person.sign_out", "project.create",
  "project.set_limits", "session.close", "session.open", "session.switch",
  "sign_in_code.create", "upload.cancel", "upload.complete", "upload.create",
  "webhook_delivery.replay", "webhook_endpoint.change", "webhook_endpoint.create",
  "webhook_endpoint.delete", "webhook_endpoint.rotate_secret", "webhook_endpoint.test",
  "worker.delete", "worker.drain", "worker.resume",
];

/** @param {import("../../router.js").PageProps} props */
export default function Audit({ query }) {
  const [project, action, after] = ["project", "action", "after"].map((name) => query.get(name));
  const entries = useLoaded(
    "/v1/admin/audit",
    { limit: 50, project_id: project, action, after },
    { every: after ? undefined : 5_000 },
  );
  const projects = useLoaded(entries.data && "/v1/admin/projects", { limit: 1000 });
  const known = projects.data?.data ?? [];
  const nameOf = (/** @type {string} */ id) =>
    known.find((/** @type {any} */ one) => one.id === id)?.name ?? id;
  const wanted = { project, action };
  return html`
    <${Page} title="Audit">
      <${Await} loaded=${entries}>
        ${(/** @type {any} */ found) => html`
          <${Filter} wanted=${wanted} projects=${known} />
          <${Section} title="Changes, the newest first">
            ${found.data.length
              ? html`<${Table} label="Changes" rows=${found.data} columns=${[
                  { name: "When", cell: (one) => html`<${Time} at=${one.created_at} />` },
                  { name: "What", cell: (one) => html`<code>${one.action}</code>` },
                  { name: "Of", cell: (one) => html`<bdi>${one.subject}</bdi>` },
                  {
                    name: "Project",
                    cell: (one) => html`<a class="whole" href=${href(`/admin/projects/${one.project_id}`)}><bdi>${nameOf(one.project_id)}</bdi></a>`,
                  },
                  {
                    name: "By key",
                    cell: (one) => one.key_id ?? "an operator at the database",
                  },
                  { name: "Request", cell: (one) => html`<${Request} of=${one} />` },
                ]} />`
              : html`<${Empty} title="No such change"><p>Choose another project or action.</p></${Empty}>`}
            <${Pager} page=${found} path="/admin/audit" query=${{ ...wanted, after }} />
          </${Section}>
        `}
      </${Await}>
    </${Page}>
  `;
}

const Request = ({ of: entry }) =>
  entry.request_id
    ? html`<div><bdi>${entry.address ?? "address not known"}</bdi><br />
        <code class="small">${entry.request_id}</code></div>`
    : "–";

function Filter({ wanted, projects }) {
  const choose = (/** @type {string} */ name, /** @type {any} */ event) =>
    go("/admin/audit", { ...wanted, [name]: event.target.value });
  return html`
    <form class="row" aria-label="Which changes" onSubmit=${(event) => event.preventDefault()}>
      <${Field} label="Project" name="project">
        ${(given) => html`<select ...${given} value=${wanted.project ?? ""} onInput=${(event) => choose("project", event)}>
          <option value="">All</option>
          ${wanted.project && !projects.some((one) => one.id === wanted.project) &&
          html`<option value=${wanted.project}>${wanted.project}</option>`}
          ${projects.map((one) => html`<option key=${one.id} value=${one.id}>${one.name}</option>`)}
        </select>`}
      </${Field}>
      <${Field} label="Action" name="action">
        ${(given) => html`<select ...${given} value=${wanted.action ?? ""} onInput=${(event) => choose("action", event)}>
          <option value="">All</option>
          ${ACTIONS.map((action) => html`<option key=${action} value=${action}>${action}</option>`)}
        </select>`}
      </${Field}>
    </form>
  `;
}
