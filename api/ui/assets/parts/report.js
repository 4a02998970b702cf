// @ts-check
/** What the service found in a data set: its check, and what it is for a model. */
import { html } from "../vendor/preact.js";
import { useLoaded } from "../loaded.js";
import { bytes, count, plural } from "../words.js";
import { Await, Facts, FaultNotice, Notice } from "./basics.js";
import { Faults } from "./faults.js";
import { Histogram } from "./histogram.js";
import { Preview } from "./preview.js";

const CHECKED_EVERY_MS = 1_000;
const MOST_LEFT_OUT = 10;

/** How rows are spelled, by the report's `formats`. @type {Record<string, string>} */
const FORMATS = {
  chat: "chats (messages)",
  sharegpt: "chats (ShareGPT)",
  gemini: "chats (Gemini)",
  strings: "chats (lists of texts)",
  alpaca: "instructions (Alpaca)",
  question: "questions and answers",
  completion: "prompts with completions",
  text: "texts",
  preference: "preferences: preferred and rejected answers",
};

/** @param {string} name */
export const formatName = (name) => FORMATS[name] ?? name;

/**
 * A file's report; with a `model` also its tokens, cut off at `maxLength`.
 * @param {{fileId: string, model?: string | null, maxLength?: number | null}} props
 */
export function Report({ fileId, model = null, maxLength = null }) {
  const path = `/v1/files/${encodeURIComponent(fileId)}`;
  const file = useLoaded(path, {}, { every: CHECKED_EVERY_MS, until: (found) => found.status !== "uploaded" });
  const checked = file.data !== null && file.data.status !== "uploaded";
  const report = useLoaded(checked ? `${path}/report` : null);
  if (file.data && !checked) {
    return html`<p class="quiet" role="status">The file is being checked. What was found is shown here.</p>`;
  }
  return html`<${Await} loaded=${file.fault ? file : report}>
    ${(found) => html`
      <div class="report">
        <${Checked} found=${found} />
        ${found.ok && model && html`<${TokenReport} path=${`${path}/report`} model=${model} maxLength=${maxLength} />`}
      </div>`}
  </${Await}>`;
}

function Checked({ found }) {
  const [format] = Object.keys(found.formats);
  const leftOut = Object.entries(found.left_out ?? {})
    .slice(0, MOST_LEFT_OUT)
    .map(([name, rows]) => [name, plural(rows, "row")]);
  return html`
    ${found.ok
      ? html`<${Notice} tone="good"><p>No fault found in ${plural(found.rows, "row")}.</p></${Notice}>`
      : html`<${Faults} report=${found} />`}
    ${found.warnings.map((said) => html`<${Notice} tone="warn"><p><bdi>${said}</bdi></p></${Notice}>`)}
    <${Facts} pairs=${[
      ["Rows", found.ok ? count(found.rows) : `${count(found.rows)} without a fault`],
      ["Format", format && formatName(format)],
      ["Read as", `${found.container}, ${found.encoding}`],
      ["Text", bytes(found.text_bytes)],
      ["Messages", found.messages ? messages(found) : null],
      ["Rows with tools", found.rows_with_tools ? count(found.rows_with_tools) : null],
      ["Rows with reasoning", found.rows_with_reasoning ? count(found.rows_with_reasoning) : null],
      ["Copies of earlier rows", found.duplicates.rows ? copies(found.duplicates) : null],
      ["Columns", found.columns && html`<${Pairs} of=${Object.entries(found.columns)} />`],
      ["Left out of rows", leftOut.length ? html`<${Pairs} of=${leftOut} />` : null],
    ]} />
  `;
}

/** @param {any} found */
const messages = (found) =>
  `${count(found.messages)} (${Object.entries(found.roles).map(([role, n]) => `${count(n)} ${role}`).join(", ")})`;

/** @param {any} found */
function copies(found) {
  const lines = found.lines.slice(0, 5).map((/** @type {number[]} */ [first, again]) => `${again} as ${first}`);
  return `${found.complete ? "" : "at least "}${count(found.rows)}: line ${lines.join(", ")}`;
}

const Pairs = ({ of }) =>
  html`${of.map(([name, value], i) => html`${i ? ", " : ""}<bdi><code>${name}</code></bdi> <bdi>${value}</bdi>`)}`;

function TokenReport({ path, model, maxLength }) {
  const loaded = useLoaded(path, { model, max_length: maxLength });
  if (loaded.data === null && !loaded.fault) {
    return html`<p class="quiet" role="status">Counting tokens for <bdi>${model}</bdi> …</p>`;
  }
  if (loaded.fault) return html`<${FaultNotice} fault=${loaded.fault} reload=${loaded.reload} />`;
  const tokens = loaded.data.tokens;
  return html`
    <h3>Tokens for <bdi>${model}</bdi></h3>
    ${tokens.sampled &&
    html`<p class="small quiet">Measured on ${count(tokens.measured_rows)} of ${plural(tokens.rows, "row")},
      taken from all over the file.</p>`}
    <${Facts} pairs=${[
      ["Tokens per epoch", `${count(tokens.epoch_tokens)} tokens`],
      ["Trained tokens per epoch", `${count(tokens.epoch_trained_tokens)} tokens`],
      ["Median row", tokens.row_tokens && `${count(tokens.row_tokens.p50)} tokens`],
      ["95th percentile", tokens.row_tokens && `${count(tokens.row_tokens.p95)} tokens`],
      ["Longest row", tokens.row_tokens && `${count(tokens.row_tokens.max)} tokens`],
    ]} />
    <${Histogram} bins=${tokens.histogram} maxLength=${tokens.max_length} />
    <${Losses} tokens=${tokens} />
    <${Preview} rows=${tokens.preview} />
  `;
}

/** What a training does not read as it stands in the file, with the lines. */
function Losses({ tokens }) {
  /** @type {[string, any][]} */
  const found = [
    ["Cut at their end", tokens.cut],
    ["Split into several", tokens.split],
    ["Left out, as nothing in them is trained", tokens.nothing_to_train],
    ["Trained answer by answer", tokens.answer_by_answer],
    ...Object.entries(tokens.lost).map(([words, of]) => /** @type {[string, any]} */ ([`Lost: ${words}`, of])),
    ...Object.entries(tokens.adapted).map(([words, of]) => /** @type {[string, any]} */ ([`Changed to fit: ${words}`, of])),
  ];
  const rows = found.filter(([, of]) => of.rows);
  return html`
    ${rows.length > 0 &&
    html`<div class="scroll" tabindex="0" role="region" aria-label="Rows that are not read whole">
      <table class="table plain">
        <thead><tr>
          <th scope="col">What happens to rows</th><th scope="col" class="number">Rows</th><th scope="col">Lines</th>
        </tr></thead>
        <tbody>${rows.map(
          ([words, of]) => html`<tr>
            <td><bdi>${words}</bdi></td><td class="number">${count(of.rows)}</td><td>${lines(of)}</td>
          </tr>`,
        )}</tbody>
      </table>
    </div>`}
    ${tokens.refused.rows > 0 &&
    html`<${Notice} tone="warn">
      <p>The chat template refuses ${plural(tokens.refused.rows, "row")}, which would be left out:</p>
      <ul>${tokens.refused.lines.map((one) => html`<li>Line ${one.line}: <bdi>${one.reason}</bdi></li>`)}</ul>
    </${Notice}>`}
    ${tokens.in_pieces.length > 0 &&
    html`<${Notice} tone="warn">
      <p>The chat template writes these as ordinary text, though they are meant as single tokens:
      ${tokens.in_pieces.map((/** @type {string} */ word) => html` <code>${word}</code>`)}</p>
    </${Notice}>`}
  `;
}

/** @param {{rows: number, lines: number[]}} of */
const lines = (of) => `${of.lines.join(", ")}${of.rows > of.lines.length ? ", …" : ""}`;
