// @ts-check
/** What the base and the tuned model answer to held-out rows, and the rows they do best and worst on. */
import { html, useEffect } from "../../vendor/preact.js";
import { jobPath } from "../../api.js";
import { useLoaded } from "../../loaded.js";
import { Await, Empty, Field, Section, Table } from "../../parts/basics.js";
import { differing } from "../../parts/differ.js";
import { go } from "../../router.js";
import { ENDED } from "./state.js";
import { count, measure } from "../../words.js";

export function Samples({ job, live, query }) {
  const samples = useLoaded(jobPath(job.id, "/samples"));
  const newest = live.messages[0]?.id;
  useEffect(() => samples.reload(), [newest]);
  return html`
    <${Await} loaded=${samples}>
      ${(/** @type {any} */ found) =>
        found.data.length
          ? html`<${Evaluated} sets=${found.data} job=${job} step=${Number(query.get("step"))} />`
          : html`<${Empty} title="No samples">
              <p>${!validates(job)
                ? `This job has no validation data, so nothing is answered. Clone it with a validation file,
                  or with a part of its rows held out.`
                : ENDED.has(job.status)
                  ? "No row was answered in this job."
                  : "The model answers some rows at the end of each epoch, and they are shown here."}</p>
            </${Empty}>`}
    </${Await}>
  `;
}

/** @param {any} job */
const validates = (job) => job.validation_file || job.tunery.training?.validation_split;

function Evaluated({ sets, job, step }) {
  const set = sets.find((/** @type {any} */ each) => each.step_number === step) ?? sets[0];
  return html`
    <form class="row" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
      <${Field} label="Evaluated after" name="samples-step">
        ${(/** @type {any} */ given) => html`<select ...${given} value=${set.step_number}
          onChange=${(/** @type {any} */ event) => go(`/jobs/${job.id}/samples`, { step: event.target.value }, { replace: true })}>
          ${sets.map((/** @type {any} */ each) => html`<option value=${each.step_number}>step ${count(each.step_number)}</option>`)}
        </select>`}
      </${Field}>
    </form>
    ${set.answers.length > 0 && html`<${Section} title="Answers">
      <p class="small quiet">Words that only one of base and tuned has are <mark class="differs">marked and underlined</mark>.</p>
      ${set.answers.map((/** @type {any} */ answer) => html`<${Answer} key=${answer.line} answer=${answer} />`)}
    </${Section}>`}
    <div class="columns">
      <${Rows} title="Rows with the lowest loss" rows=${set.best} />
      <${Rows} title="Rows with the highest loss" rows=${set.worst} />
    </div>
  `;
}

function Answer({ answer }) {
  const [base, tuned] = differing(answer.base, answer.tuned);
  const text = (/** @type {string} */ words) => html`<p class="said"><bdi>${words}</bdi></p>`;
  return html`
    <article class="answer" aria-label=${`Row ${answer.line}`}>
      <h3 class="small">Row ${count(answer.line)}${answer.tuned.trim() === answer.expected.trim() &&
        html` <span class="status good"><span aria-hidden="true">✓</span> the tuned answer is the expected one</span>`}</h3>
      <dl>
        <div class="prompt"><dt>Prompt</dt><dd>${text(answer.prompt)}</dd></div>
        <div><dt>Expected</dt><dd>${text(answer.expected)}</dd></div>
        <div><dt>Base</dt><dd><${Marked} runs=${base} /></dd></div>
        <div><dt>Tuned</dt><dd><${Marked} runs=${tuned} /></dd></div>
      </dl>
    </article>
  `;
}

const Marked = ({ runs }) => html`<p class="said"><bdi>${runs.map((/** @type {any} */ run) => {
  if (!run.differs) return run.text;
  const words = run.text.trimStart();
  return html`${run.text.slice(0, run.text.length - words.length)}<mark class="differs">${words}</mark>`;
})}</bdi></p>`;

const Rows = ({ title, rows }) =>
  rows.length > 0 &&
  html`<${Section} title=${title}>
    <${Table} label=${title} rows=${rows} id=${(/** @type {any} */ row) => row.line} columns=${[
      { name: "Row", cell: (row) => count(row.line), number: true },
      { name: "Text", cell: (row) => html`<p class="said small"><bdi>${row.text}</bdi></p>` },
      { name: "Base loss", cell: (row) => measure(row.base_loss), number: true },
      { name: "Loss", cell: (row) => measure(row.loss), number: true },
    ]} />
  </${Section}>`;
