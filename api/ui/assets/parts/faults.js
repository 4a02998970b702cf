// @ts-check
/** The faults of a data set: line, field, reason and fix, with a search. */
import { html, useState } from "../vendor/preact.js";
import { count, plural } from "../words.js";
import { Field, Notice } from "./basics.js";
import { withCode } from "./text.js";

const AT_ONCE = 25;
// So many are seen at a glance.
const FEW = 5;

/** @param {{report: any}} props */
export function Faults({ report }) {
  const [words, setWords] = useState("");
  const [shown, setShown] = useState(AT_ONCE);
  const wanted = words.trim().toLowerCase();
  const found = report.faults.filter((fault) => !wanted || told(fault).includes(wanted));
  const unlisted = report.fault_count - report.faults.length;
  return html`
    <${Notice} tone="bad">
      <p><strong>${plural(report.fault_count, "fault")} in ${plural(report.faulty_rows, "row")}.</strong>
      ${" "}Nothing can be trained on the file until they are fixed. Fix them, and upload it again.</p>
    </${Notice}>
    ${report.faults.length > FEW &&
    html`<form class="row" role="search" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
      <${Field} label="Search the faults" name="fault-words" hint="A line, a field, a rule or a word">
        ${(given) => html`<input ...${given} type="search" value=${words}
          onInput=${(event) => {
            setWords(event.target.value);
            setShown(AT_ONCE);
          }} />`}
      </${Field}>
      <p class="small quiet" role="status">${plural(found.length, "fault")}</p>
    </form>`}
    <ol class="faults" aria-label="Faults">
      ${found.slice(0, shown).map(
        (fault) => html`<li>
          <p><strong>Line ${count(fault.line)}</strong>${fault.field && html`, <bdi><code>${fault.field}</code></bdi>`}:
            ${" "}<bdi>${withCode(fault.reason)}</bdi></p>
          ${fault.excerpt && html`<p class="excerpt"><bdi><code>${fault.excerpt}</code></bdi></p>`}
          <p><span class="quiet">Fix</span> <bdi>${withCode(fault.mend)}</bdi></p>
        </li>`,
      )}
    </ol>
    ${found.length > shown &&
    html`<div class="actions"><button type="button" onClick=${() => setShown(shown + 4 * AT_ONCE)}>
      Show more (${count(found.length - shown)} left)</button></div>`}
    ${unlisted > 0 && html`<p class="quiet">${plural(unlisted, "more fault")} of the file are not listed.</p>`}
  `;
}

/** @param {any} fault */
const told = (fault) =>
  `line ${fault.line} ${fault.field} ${fault.rule} ${fault.reason} ${fault.mend} ${fault.excerpt}`.toLowerCase();
