// @ts-check
/** Which of a file's columns are which of ours, for a file whose rows are of no known format. */
import { html, useState } from "../../vendor/preact.js";
import { ask } from "../../api.js";
import { useAction } from "../../loaded.js";
import { FaultNotice, Field } from "../../parts/basics.js";

const UNKNOWN = ["unknown_columns", "missing_messages", "missing_column"];

/**
 * What makes a row, and what it may have besides.
 * @type {Record<string, {words: string, fields: string[], may: string[]}>}
 */
const KINDS = {
  completion: { words: "A prompt and its completion", fields: ["prompt", "completion"], may: ["system"] },
  chat: { words: "A list of messages", fields: ["messages"], may: ["system", "tools"] },
  alpaca: { words: "An instruction and its output", fields: ["instruction", "output"], may: ["input", "system"] },
  preference: {
    words: "A prompt, a preferred and a rejected answer",
    fields: ["prompt", "chosen", "rejected"],
    may: ["system"],
  },
  text: { words: "A text", fields: ["text"], may: [] },
};

/** @param {any} report Whether names of columns may be all that it lacks: no row is read. */
export const columnsFail = (report) => report.rows === 0 && UNKNOWN.some((rule) => report.rules[rule]);

/** @param {any} report The names that its first such fault tells. */
function columnsOf(report) {
  const fault = report.faults.find((one) => UNKNOWN.includes(one.rule));
  const told = fault?.rule === "missing_column" ? fault.reason.split("; ").at(-1) : fault?.reason;
  return [...(told ?? "").matchAll(/`([^`]+)`/g)].map(([, name]) => name);
}

/**
 * @param {{report: any, file: any, own: File | null, send: (file: File, columns: Record<string, string>) => void}} props
 *   `own`: the file itself, if the reader has just sent it; else it is fetched.
 */
export function Columns({ report, file, own, send }) {
  const names = columnsOf(report);
  const [kind, setKind] = useState("completion");
  const [chosen, setChosen] = useState(/** @type {Record<string, string>} */ ({}));
  const { fields, may } = KINDS[kind];
  const reading = useAction(async () => {
    const path = `/v1/files/${encodeURIComponent(file.id)}/content`;
    const content = own ?? new File([await (await ask("GET", path)).blob()], file.filename);
    const all = [...fields, ...may].filter((field) => chosen[field]?.trim());
    send(content, Object.fromEntries(all.map((field) => [field, chosen[field]])));
  });
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    reading.run();
  };
  return html`
    <form class="columns-form" aria-label="Name the columns" onSubmit=${submit}>
      <h3>Name the columns</h3>
      <p class="hint">If the file is right and only calls its columns otherwise, say which is which. The file is read again; what is not
      named is left out.</p>
      <${Field} label="A row is" name="row-kind">
        ${(given) => html`<select ...${given} value=${kind} onChange=${(event) => setKind(event.target.value)}>
          ${Object.entries(KINDS).map(([name, { words }]) => html`<option value=${name}>${words}</option>`)}
        </select>`}
      </${Field}>
      <datalist id="their-columns">${names.map((name) => html`<option value=${name} />`)}</datalist>
      <div class="pairs">
        ${[...fields, ...may].map(
          (field) => html`<${Field} key=${field} label=${`Column of the ${field}`} name=${`column-${field}`}
            hint=${may.includes(field) ? "May be left empty" : null}>
            ${(given) => html`<input ...${given} list="their-columns" autocomplete="off"
              required=${fields.includes(field)} value=${chosen[field] ?? ""}
              onInput=${(event) => setChosen({ ...chosen, [field]: event.target.value })} />`}
          </${Field}>`,
        )}
      </div>
      ${names.length > 0 &&
      html`<p class="small">The file has ${names.map(
        (name, i) => html`${i ? ", " : ""}<bdi><code>${name}</code></bdi>`,
      )}.</p>`}
      <${FaultNotice} fault=${reading.fault} />
      <button type="submit" class="main" disabled=${reading.busy}>Read it with these columns</button>
    </form>
  `;
}
