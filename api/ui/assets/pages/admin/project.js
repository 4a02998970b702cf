// @ts-check
/** `#/admin/projects/ID`: one project, its limits and its keys. */
import { html } from "../../vendor/preact.js";
import { useLoaded } from "../../loaded.js";
import { Await, Facts, LinkButton, Notice, Page, Section, Time } from "../../parts/basics.js";
import { href } from "../../router.js";
import { bytes, count, money } from "../../words.js";
import { Keys } from "./keys.js";
import { Limits } from "./limits.js";
import { Use } from "./use.js";

const trail = html`<a href="#/admin/projects">Projects and keys</a>`;

/** @param {import("../../router.js").PageProps} props */
export default function Project({ params }) {
  const path = `/v1/admin/projects/${encodeURIComponent(params.id)}`;
  const project = useLoaded(path, {}, { every: 5_000 });
  if (project.data === null) {
    return html`<${Page} title="Project" trail=${trail}><${Await} loaded=${project} /></${Page}>`;
  }
  const audit = html`<${LinkButton} href=${href("/admin/audit", { project: params.id })}>Audit</${LinkButton}>`;
  return html`
    <${Page} title=${project.data.name} trail=${trail} actions=${audit}>
      ${project.data.warnings.map((/** @type {string} */ said) => html`<${Notice} tone="warn" key=${said}>${said}</${Notice}>`)}
      <${Section} title="Use">
        <${Facts} pairs=${[
          ["Id", html`<code>${project.data.id}</code>`],
          ["Created", html`<${Time} at=${project.data.created_at} />`],
          ["Running jobs", html`<${Use} project=${project.data} of="running_jobs" say=${count} />`],
          ["Unfinished jobs", html`<${Use} project=${project.data} of="unfinished_jobs" say=${count} />`],
          ["Files", html`<${Use} project=${project.data} of="files" say=${count} />`],
          ["Storage", html`<${Use} project=${project.data} of="stored_bytes" say=${bytes} />`],
          ["Device hours this month", html`<${Use} project=${project.data} of="device_hours" say=${String} />`],
          ...(project.data.currency
            ? [["Cost this month", html`<${Use} project=${project.data} of="cost" say=${(/** @type {number} */ value) => money(value, project.data.currency)} />`]]
            : []),
        ]} />
      </${Section}>
      <${Keys} path=${`${path}/keys`} />
      <${Limits} key=${project.data.id} project=${project.data} path=${path} changed=${project.reload} />
    </${Page}>
  `;
}
