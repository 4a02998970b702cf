// @ts-check
/** Step 1: what is trained on, and what the model is validated on. */
import { html, useEffect, useRef, useState } from "../../vendor/preact.js";
import { remove } from "../../api.js";
import { useLoaded } from "../../loaded.js";
import { Field, LinkButton, Section, Status } from "../../parts/basics.js";
import { Drop, useUpload } from "../../parts/drop.js";
import { Report } from "../../parts/report.js";
import { withCode } from "../../parts/text.js";
import { href } from "../../router.js";
import { bytes, plural } from "../../words.js";
import { Columns, columnsFail } from "./columns.js";
import { wrongAt } from "./schema.js";

const MOST_FILES = 100;

/**
 * @param {{draft: import("./draft.js").Draft, change: (change: any) => void, split: import("./schema.js").Setting | null,
 *   training: any, validation: any, maxLength: number | null, fault: any}} props `training`,
 *   `validation`: the file objects; null: none yet.
 */
export function Data({ draft, change, split, training, validation, maxLength, fault }) {
  return html`
    <${Section} title="1. Data" id="data">
      <${Choice} name="Training file" chosen=${draft.file} file=${training} model=${draft.model} maxLength=${maxLength}
        choose=${(/** @type {string} */ file) => change({ file })} wrong=${wrongAt(fault, "training_file")} />
      ${draft.file && split && html`<${Validation} draft=${draft} change=${change} split=${split} file=${validation} fault=${fault} />`}
    </${Section}>
  `;
}

/** One file: dropped, or one that is there. */
function Choice({ name, chosen, file, choose, wrong, model = null, maxLength = null }) {
  const [own, setOwn] = useState(/** @type {File | null} */ (null));
  const replaced = useRef(/** @type {string | null} */ (null));
  const upload = useUpload((arrived, sent) => {
    // The same bytes, which could not be read. A job may need them all the same: then they stay.
    if (replaced.current) remove(`/v1/files/${encodeURIComponent(replaced.current)}`).catch(() => {});
    replaced.current = null;
    setOwn(sent);
    choose(arrived.id);
  });
  const sendAgain = (/** @type {File} */ content, /** @type {Record<string, string>} */ columns) => {
    replaced.current = chosen;
    upload.send([content], columns);
  };
  const other = () => {
    replaced.current = null;
    choose("");
  };
  const files = useLoaded(chosen ? null : "/v1/files", { purpose: "fine-tune", limit: MOST_FILES });
  if (chosen && !upload.shown) {
    return html`
      <div class="chosen">
        <h3>${name}</h3>
        ${file &&
        html`<a href=${href(`/files/${chosen}`)}><bdi>${file.filename}</bdi></a>
          <span class="quiet">${bytes(file.bytes)}</span> <${Status} of=${file.status} />`}
        <button type="button" class="small" onClick=${other}>Take another</button>
      </div>
      ${wrong && html`<p class="hint"><strong class="bad">${wrong}</strong></p>`}
      <${Report} key=${chosen} fileId=${chosen} model=${model || null} maxLength=${maxLength} />
      ${file?.status === "error" && html`<${MapColumns} key=${`columns ${chosen}`} file=${file} own=${own} send=${sendAgain} />`}
    `;
  }
  const ready = (files.data?.data ?? []).filter((file) => file.status !== "error");
  return html`
    <h3>${name}</h3>
    <${Drop} upload=${upload} />
    ${ready.length > 0 &&
    html`<${Field} label="Or take one that is there" name=${`pick-${name.split(" ")[0]}`} wrong=${wrong}
      hint=${files.data.has_more ? html`The newest ${MOST_FILES}; the others are under <a href="#/files">Files</a>.` : null}>
      ${(given) => html`<select ...${given} value="" onChange=${(event) => choose(event.target.value)}>
        <option value="">Choose a file …</option>
        ${ready.map((file) => html`<option value=${file.id}>${named(file)}</option>`)}
      </select>`}
    </${Field}>`}
  `;
}

/** @param {any} file Its name's own direction does not reach the words behind it. */
const named = (file) =>
  `\u2068${file.filename}\u2069, ${file.tunery?.rows == null ? bytes(file.bytes) : plural(file.tunery.rows, "row")}`;

/** Where no row is of a known format: which of the file's columns are which of ours. */
function MapColumns({ file, own, send }) {
  const report = useLoaded(`/v1/files/${encodeURIComponent(file.id)}/report`);
  if (!report.data || !columnsFail(report.data)) return null;
  return html`<${Columns} report=${report.data} file=${file} own=${own} send=${send} />`;
}

function Validation({ draft, change, split, file, fault }) {
  const share = draft.settings[split.path];
  const given = draft.validation ? "file" : share ? "share" : "none";
  const [way, setWay] = useState(given);
  useEffect(() => {
    if (given !== "none") setWay(given);
  }, [given]);
  const put = (/** @type {string} */ next) => {
    const { [split.path]: _, ...settings } = draft.settings;
    setWay(next);
    change({ validation: "", settings: next === "share" ? { ...settings, [split.path]: "0.1" } : settings });
  };
  const ways = [
    ["none", "None"],
    ["share", "A share of the rows, which are not trained on"],
    ["file", "A file of its own"],
  ];
  return html`
    <fieldset>
      <legend>Validation</legend>
      <p class="hint">What the loss is measured on that is not trained on: it shows whether the model learns or only remembers.</p>
      ${ways.map(
        ([value, words]) => html`<label class="pick"><input type="radio" name="validation" value=${value}
          checked=${way === value} onChange=${() => put(value)} /> ${words}</label>`,
      )}
      ${way === "share" &&
      html`<${Field} label="Share of the rows" name=${split.path} wrong=${wrongAt(fault, split.path)}
        hint=${withCode(`${split.words} ${split.range}`)}>
        ${(attributes) => html`<input ...${attributes} inputmode="decimal" value=${share ?? ""}
          onInput=${(event) => change({ settings: { ...draft.settings, [split.path]: event.target.value } })} />`}
      </${Field}>`}
      ${way === "file" &&
      html`<${Choice} name="Validation file" chosen=${draft.validation} file=${file} wrong=${wrongAt(fault, "validation_file")}
        choose=${(/** @type {string} */ validation) => change({ validation })} />`}
    </fieldset>
  `;
}

/** For those who may only read. */
export const ReadersSentence = () => html`
  <p>This key can read, and starting a fine-tune changes something. Sign in with a key that may write, or ask whoever
  runs this service for one.</p>
  <div class="actions"><${LinkButton} href="#/jobs">Look at the jobs</${LinkButton}></div>
`;
