// @ts-check
/** A trained model in other forms: begun here, followed, fetched. */
import { html, useEffect, useState } from "../../vendor/preact.js";
import { jobPath, post, remove } from "../../api.js";
import { useAction, useLoaded } from "../../loaded.js";
import { AskFirst, Await, Code, FaultNotice, Field, Meter, Section, Status, Table, Time } from "../../parts/basics.js";
import { useMay } from "../../session.js";
import { count, plural } from "../../words.js";
import { fileColumns } from "./results.js";
import { ENDED } from "./state.js";

const EVERY_MS = 2_000;
// Without one it is the adapter alone.
const WHOLE = {
  q4_k_m: "q4_k_m: small, the usual",
  q5_k_m: "q5_k_m",
  q6_k: "q6_k",
  q8_0: "q8_0: nearly exact",
  f16: "f16: not quantized",
  q4_0: "q4_0",
  "": "none: the adapter alone",
};
const FORMATS = {
  peft: { words: "PEFT: the adapter, for PEFT and vLLM", options: {} },
  merged: {
    words: "merged: one whole model",
    options: {
      onto: { trained: "the base as it was trained on", original: "the original base" },
      dtype: { bf16: "bf16", fp16: "fp16", fp32: "fp32" },
    },
  },
  gguf: { words: "GGUF: for llama.cpp and LM Studio", options: { quantization: WHOLE } },
  ollama: { words: "Ollama: GGUF with a Modelfile", options: { quantization: WHOLE } },
};
const NAMES = { onto: "Merged onto", dtype: "Numbers", quantization: "Whole model in" };

/** @param {any} job Whether all weights are trained, not an adapter. */
export const isWhole = (job) => job.tunery.training?.finetuning_type === "full";

export function Exports({ job, checkpoints }) {
  const writes = useMay("write");
  const path = jobPath(job.id, "/exports");
  const exports = useLoaded(path, { limit: 100 }, {
    every: EVERY_MS,
    until: (found) => found.data.every((/** @type {any} */ each) => ENDED.has(each.status)),
  });
  // A job may begin some itself when it has succeeded.
  useEffect(() => exports.reload(), [job.status]);
  const whole = isWhole(job);
  const can = job.status === "succeeded" || checkpoints.length > 0;
  return html`
    <${Section} title="Exports">
      ${whole && html`<p class="quiet">This training made a whole model: its files, above, are what is served.</p>`}
      ${!whole && writes && !can && html`<p class="quiet">An export needs the finished model, or a checkpoint.</p>`}
      ${!whole && writes && can && html`<${Begin} path=${path} job=${job} checkpoints=${checkpoints} begun=${exports.reload} />`}
      <${Await} loaded=${exports}>
        ${(/** @type {any} */ found) =>
          found.data.length
            ? html`<ul class="exports">${found.data.map(
                (/** @type {any} */ each) => html`<${Export} key=${each.id} made=${each} path=${path}
                  writes=${writes} reload=${exports.reload} />`,
              )}</ul>`
            : !whole && html`<p class="quiet">There are none yet.</p>`}
      </${Await}>
    </${Section}>
  `;
}

function Begin({ path, job, checkpoints, begun }) {
  const finished = job.status === "succeeded";
  const [format, setFormat] = useState("merged");
  const [chosen, setChosen] = useState(/** @type {Record<string, string>} */ ({}));
  const [step, setStep] = useState("");
  const { options } = FORMATS[/** @type {keyof typeof FORMATS} */ (format)];
  const from = step || (finished ? "" : String(checkpoints[0].step_number));
  const beginning = useAction(async () => {
    const given = Object.entries(options).map(([name, values]) => [name, chosen[name] in values ? chosen[name] : Object.keys(values)[0]]);
    await post(path, {
      format,
      ...Object.fromEntries(given.filter(([, value]) => value)),
      ...(from ? { checkpoint: Number(from) } : {}),
    });
    begun();
  });
  const wrong = (/** @type {string} */ name) =>
    beginning.fault?.param === name ? beginning.fault.message : null;
  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    beginning.run();
  };
  return html`
    <form class="row" onSubmit=${send} aria-label="Begin an export">
      <${Choice} label="Format" name="format" value=${format} set=${setFormat} wrong=${wrong("format")}
        offered=${Object.entries(FORMATS).map(([key, { words }]) => [key, words])} />
      ${Object.entries(options).map(
        ([name, values]) => html`<${Choice} key=${name} name=${name} value=${chosen[name]} wrong=${wrong(name)}
          label=${NAMES[/** @type {keyof typeof NAMES} */ (name)]} offered=${Object.entries(values)}
          set=${(/** @type {string} */ value) => setChosen({ ...chosen, [name]: value })} />`,
      )}
      <${Choice} label="Of" name="checkpoint" value=${from} set=${setStep} wrong=${wrong("checkpoint")}
        offered=${[
          ...(finished ? [["", "the finished model"]] : []),
          ...checkpoints.map((/** @type {any} */ each) => [String(each.step_number), `step ${count(each.step_number)}`]),
        ]} />
      <button class="main" type="submit" disabled=${beginning.busy}>Export</button>
    </form>
    ${!["format", "checkpoint", "onto", "dtype", "quantization"].includes(beginning.fault?.param ?? "") && html`<${FaultNotice} fault=${beginning.fault} />`}
  `;
}

/**
 * @param {{label: string, name: string, value: string | undefined, set: (value: string) => void,
 *   wrong: string | null, offered: [string, string][]}} props
 */
const Choice = ({ label, name, value, set, wrong, offered }) => html`
  <${Field} label=${label} name=${`export-${name}`} wrong=${wrong}>
    ${(/** @type {any} */ given) => html`<select ...${given} value=${value}
      onChange=${(/** @type {any} */ event) => set(event.target.value)}>
      ${offered.map(([key, words]) => html`<option value=${key}>${words}</option>`)}
    </select>`}
  </${Field}>
`;

function Export({ made, path, writes, reload }) {
  const acting = useAction(async (/** @type {() => Promise<any>} */ act) => {
    await act();
    reload();
  });
  const { progress, facts } = made.tunery;
  const ended = ENDED.has(made.status);
  const of = made.step_number == null ? "the finished model" : `step ${count(made.step_number)}`;
  const options = Object.entries(made.options).map(([name, value]) => `${name} ${value}`);
  const below = (/** @type {string} */ rest) => `${path}/${made.id}${rest}`;
  return html`
    <li>
      <div class="heading">
        <p><strong>${made.format}</strong> <${Status} of=${made.status} />
          <span class="small quiet"> ${[...options, of].join(", ")}, ${" "}<${Time} at=${made.created_at} /></span></p>
        ${writes && html`<div class="actions">${ended
          ? html`<${AskFirst} label="Delete export" busy=${acting.busy} act=${() => acting.run(() => remove(below("")))}
              question="Delete this export with its files? It can be made again." />`
          : html`<button type="button" disabled=${acting.busy}
              onClick=${() => acting.run(() => post(below("/cancel")))}>Cancel export</button>`}</div>`}
      </div>
      ${!ended && progress && html`<${Meter} value=${progress.step} most=${progress.total_steps} label="Export" />`}
      ${made.error && html`<div class="notice bad"><bdi>${made.error.message}</bdi></div>`}
      ${facts.drift && html`<p class="small quiet">${driftInWords(facts.drift)}</p>`}
      ${made.files.length > 0 && html`<details open=${made.files.length < 4}>
        <summary>${plural(made.files.length, "file")}</summary>
        <${Table} label=${`Files of the export ${made.format}`} rows=${made.files} id=${(/** @type {any} */ file) => file.name}
          columns=${fileColumns((file) => below(`/files/${encodeURIComponent(file.name)}`))} />
      </details>`}
      ${made.status === "succeeded" && html`<${Code} label=${`Commands for ${made.id}`} text=${commands(made)} />`}
      <${FaultNotice} fault=${acting.fault} />
    </li>
  `;
}

/** Those that fetch it, which makes nothing new, and serve it. @param {any} made */
function commands(made) {
  const flags = Object.entries({ format: made.format, ...made.options, checkpoint: made.step_number, into: made.id })
    .filter(([, value]) => value != null)
    .map(([name, value]) => `--${name} ${value}`);
  const fetched = `tunery export ${made.fine_tuning_job_id} ${flags.join(" ")}`;
  return [fetched, made.tunery.serve].filter(Boolean).join("\n");
}

/** @param {any} drift */
const driftInWords = (drift) =>
  `Against the model as it was trained${drift.rows ? `, on ${plural(drift.rows, "row")}` : ""}: ${Object.entries(drift)
    .filter(([name]) => name !== "rows")
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${typeof value === "number" ? Number(value.toPrecision(4)) : value}`)
    .join(", ")}.`;
