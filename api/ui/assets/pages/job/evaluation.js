// @ts-check
/** Whether the tuned model is better than its base, and where it is worse. */
import { html } from "../../vendor/preact.js";
import { Facts, Notice, Section, Status, Table } from "../../parts/basics.js";
import { count } from "../../words.js";

/** @type {Record<string, string>} */
const WORDS = {
  better: "The tuned model is better than its base",
  same: "So many rows show no difference",
  worse: "The tuned model is worse than its base",
  pending: "A judge is still to answer",
  failed: "There is no verdict",
};

/** Nothing of a job that was created without an evaluation. */
export function Evaluation({ job }) {
  const found = job.tunery.evaluation;
  if (!found) return null;
  const { interval, got_worse: worse } = found;
  return html`
    <${Section} title="Evaluation">
      <p><${Status} of=${found.verdict} word=${WORDS[found.verdict]} /></p>
      ${found.warning && html`<${Notice} tone="warn"><p><bdi>${found.warning}</bdi></p></${Notice}>`}
      ${found.rows != null && html`<${Facts} pairs=${[
        ["Base's score", score(found.base_score)],
        ["Tuned score", score(found.tuned_score)],
        ["Difference", score(found.difference)],
        ["95 % interval", interval && `${score(interval[0])} to ${score(interval[1])}`],
        ["Rows", count(found.rows)],
        ["Got better", count(found.better_rows)],
        ["Got worse", count(found.worse_rows)],
      ]} />`}
      ${worse.length > 0 && html`<${Table} label="Rows that got worse" rows=${worse}
        id=${(/** @type {any} */ row) => row.line} columns=${[
          { name: "Row", cell: (row) => count(row.line), number: true },
          { name: "Prompt", cell: (row) => said(row.prompt) },
          { name: "Base", cell: (row) => said(row.base) },
          { name: "Tuned", cell: (row) => said(row.tuned) },
          { name: "Score", cell: (row) => `${score(row.base_score)} → ${score(row.tuned_score)}`, number: true },
        ]} />`}
    </${Section}>
  `;
}

/** @param {number} value */
const score = (value) => value.toFixed(2);

/** @param {string} text */
const said = (text) => html`<p class="said small"><bdi>${text}</bdi></p>`;
