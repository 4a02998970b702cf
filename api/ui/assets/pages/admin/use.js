// @ts-check
import { html } from "../../vendor/preact.js";
import { Meter } from "../../parts/basics.js";

/**
 * What a project uses of a limit.
 * @param {{project: any, of: string, say: (value: number) => string}} props
 */
export function Use({ project, of: name, say }) {
  const [used, most] = [project.usage[name], project.limits[name]];
  if (most === null) return html`<span>${say(used)}</span>`;
  return html`<div class="use">
    <span class=${used >= most ? "bad" : ""}>${say(used)} of ${say(most)}</span>
    <${Meter} value=${used} most=${most} label=${`${say(used)} of ${say(most)}`} />
  </div>`;
}
