// @ts-check
import { html } from "../../vendor/preact.js";
import { href } from "../../router.js";
import { useMe } from "../../session.js";

/**
 * A job or export of any project. A page shows only those of the reader's own project.
 * @param {{id: string, entry?: any}} props `entry`: of the queue, if it is known.
 */
export function JobLink({ id, entry = null }) {
  const own = entry?.project_id === useMe().project_id;
  const job = entry?.export_of ?? id;
  return html`<div>
    ${own
      ? html`<a href=${href(entry.export_of ? `/jobs/${job}/results` : `/jobs/${job}`)}>${id}</a>`
      : id}
    ${entry && html`<br /><span class="quiet small">${entry.export_of ? "export, " : ""}project
      <bdi> ${entry.project}</bdi></span>`}
  </div>`;
}
