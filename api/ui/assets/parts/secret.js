// @ts-check
import { html } from "../vendor/preact.js";
import { Code } from "./basics.js";

/**
 * What the service shows once.
 * @param {{title: string, text: string, label: string, done: () => void, children?: any}} props
 */
export const Secret = ({ title, text, label, done, children = null }) => html`
  <div class="notice good" role="status">
    <p><strong>${title}</strong></p>
    <p>Copy it now: it is not shown again.</p>
    <${Code} text=${text} label=${label} />
    ${children}
    <button type="button" onClick=${done}>I have copied it</button>
  </div>
`;
