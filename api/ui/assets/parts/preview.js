// @ts-check
/** The first rows as the model reads them, with what is trained on marked. */
import { html } from "../vendor/preact.js";
import { count, plural } from "../words.js";

/** @param {{rows: any[]}} props */
export function Preview({ rows }) {
  if (!rows.length) return null;
  return html`
    <h3>What the model reads</h3>
    <p class="small quiet">The text of the first rows with all that the chat template writes.
      ${" "}<mark class="trained">Underlined and marked ▸ ◂</mark> is what is trained on; the rest is only read.</p>
    ${rows.map(
      (row, i) => html`<figure class="preview" key=${i}>
        <figcaption class="small">Line ${count(row.line)}, ${plural(row.tokens, "token")}${row.shortened && ", its beginning"}</figcaption>
        <pre tabindex="0" role="group" aria-label=${`Row ${i + 1}, of line ${row.line}`}>${row.segments.map(
          (part) => (part.trained ? html`<${Trained} text=${part.text} />` : html`<bdi>${part.text}</bdi>`),
        )}</pre>
      </figure>`,
    )}
  `;
}

/** Marked for the eye in more than colour, and for the ear. */
const Trained = ({ text }) => html`<mark class="trained"
  ><span class="unseen">trained: </span><span aria-hidden="true">▸</span
  ><bdi>${text}</bdi
  ><span aria-hidden="true">◂</span><span class="unseen"> end of trained</span></mark>`;
