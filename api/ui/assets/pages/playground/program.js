// @ts-check
/** The same request as a program. */
import { html, useState } from "../../vendor/preact.js";
import { Code } from "../../parts/basics.js";
import { askingCurl, askingPython } from "../../parts/lines.js";

/** @param {{asked: [path: string, request: any]}} props */
export function Program({ asked: [path, request] }) {
  const [shown, setShown] = useState("Python");
  /** @type {Record<string, () => string>} */
  const programs = {
    Python: () => askingPython(path, request, location.origin),
    curl: () => askingCurl(path, request, location.origin),
  };
  return html`
    <div class="actions" role="group" aria-label="Language">
      ${Object.keys(programs).map(
        (name) => html`<button type="button" class="small" aria-pressed=${name === shown}
          onClick=${() => setShown(name)}>${name}</button>`,
      )}
    </div>
    <${Code} text=${programs[shown]()} label=${`This request in ${shown}`} />
  `;
}
