// @ts-check
/** A trained model in other forms: begun here, followed, fetched. */
import { html, useState } from "../../vendor/preact.js";
import { jobPath, post, remove } from "../../api.js";
import { useAction, useLoaded } from "../../loaded.js";
import { AskFirst, Await, Code, FaultNotice, Field, Meter, Section, Status, Table, Time } from "../../parts/basics.js";
import { useMay } from "../../session.js";
import { count, plural } from "../../words.js";
import { fileColumns } from "./results.js";
import { ENDED } from "./state.js";

const EVERY_MS = 2_000;
const FORMATS = {
  peft: { words: "PEFT: the adapter, for PEFT and vLLM", options: {} },
  merged: {
    words: "merged: one whole model",
    options: {
      onto: { trained: "the base as it was trained on", original: "the original base" },
      dtype: { bf16: "bf16", fp16: "fp16", fp32: "fp32" },
    },
  },
  gguf: { words: "GGUF: the adapter, for llama.cpp", options: { dtype: { f32: "f32", f16: "f16" } } },
  ollama: { words: "Ollama: the adapter with a Modelfile", options: { dtype: { f32: "f32", f16: "f16" } } },
};
const NAMES = { onto: "Merged onto", dtype: "Numbers" };

export function Exports({ job, checkpoints }) {
  const writes = useMay("write");
  const path = jobPath(job.id, "/exports");
  const exports = useLoaded(path, { limit: 100 }, {
    every: EVERY_MS,
    until: (found) => found.data.every((/** @type {any} */ each) => ENDED.has(each.status)),
  });
  const whole = job.tunery.training?.finetuning_type === "full";
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
                (/** @type {any} */ each) => html`<${Export} key=${each.id} made=${each} path=${path} writes=${writes} reload=${exports.reload} />`,
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
      ...Object.fromEntries(given),
      ...(from ? { checkpoint: Number(from) } : {}),
    });
    begun();
  });
  const select = (/** @type {string} */ label, /** @type {string} */ name, /** @type {any} */ value, /** @type {(value: string) => void} */ set, /** @type {[string, any][]} */ offered) => html`
    <${Field} label=${label} name=${`export-${name}`} wrong=${beginning.fault?.param === name ? beginning.fault?.message : null}>
      ${(/** @type {any} */ given) => html`<select ...${given} value=${value} onChange=${(/** @type {any} */ event) => set(event.target.value)}>
        ${offered.map(([key, words]) => html`<option value=${key}>${words}</option>`)}
      </select>`}
    </${Field}>`;
  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    beginning.run();
  };
  return html`
    <form class="row" onSubmit=${send} aria-label="Begin an export">
      ${select("Format", "format", format, setFormat, Object.entries(FORMATS).map(([key, { words }]) => [key, words]))}
      ${Object.entries(options).map(([name, values]) =>
        select(NAMES[/** @type {keyof typeof NAMES} */ (name)], name, chosen[name], (value) => setChosen({ ...chosen, [name]: value }), Object.entries(values)),
      )}
      ${select("Of", "checkpoint", from, setStep, [
        ...(finished ? [["", "the finished model"]] : []),
        ...checkpoints.map((/** @type {any} */ each) => [String(each.step_number), `the checkpoint of step ${count(each.step_number)}`]),
      ])}
      <button class="main" type="submit" disabled=${beginning.busy}>Export</button>
    </form>
    ${!["format", "checkpoint", "onto", "dtype"].includes(beginning.fault?.param ?? "") && html`<${FaultNotice} fault=${beginning.fault} />`}
  `;
}

function Export({ made, path, writes, reload }) {
  const acting = useAction(async (/** @type {() => Promise<any>} */ act) => {
    await act();
    reload();
  });
  const { progress, serve, facts } = made.tunery;
  const ended = ENDED.has(made.status);
  const options = Object.entries(made.options).map(([name, value]) => `${name} ${value}`);
  const below = (/** @type {string} */ rest) => `${path}/${made.id}${rest}`;
  return html`
    <li>
      <div class="heading">
        <p><strong>${made.format}</strong> <${Status} of=${made.status} />
          <span class="small quiet"> ${[...options, made.step_number == null ? "the finished model" : `step ${count(made.step_number)}`].join(", ")}, ${" "}<${Time} at=${made.created_at} /></span></p>
        ${writes && html`<div class="actions">${ended
          ? html`<${AskFirst} label="Delete export" busy=${acting.busy} act=${() => acting.run(() => remove(below("")))}
              question="Delete this export with its files? It can be made again." />`
          : html`<button type="button" disabled=${acting.busy} onClick=${() => acting.run(() => post(below("/cancel")))}>Cancel export</button>`}</div>`}
      </div>
      ${!ended && progress && html`<${Meter} value=${progress.step} most=${progress.total_steps} label="Export" />`}
      ${made.error && html`<div class="notice bad"><bdi>${made.error.message}</bdi></div>`}
      ${facts.drift && html`<p class="small quiet">${driftInWords(facts.drift)}</p>`}
      ${made.files.length > 0 && html`<details open=${made.files.length < 4}>
        <summary>${plural(made.files.length, "file")}</summary>
        <${Table} label=${`Files of the export ${made.format}`} rows=${made.files} id=${(/** @type {any} */ file) => file.name}
          columns=${fileColumns((file) => below(`/files/${encodeURIComponent(file.name)}`))} />
      </details>`}
      ${made.status === "succeeded" && html`<${Code} label=${`Commands for ${made.id}`}
        text=${[`tunery export ${made.fine_tuning_job_id} --format ${made.format}${made.step_number == null ? "" : ` --checkpoint ${made.step_number}`} --into ${made.id}`, serve].filter(Boolean).join("\n")} />`}
      <${FaultNotice} fault=${acting.fault} />
    </li>
  `;
}

/** @param {any} drift */
const driftInWords = (drift) =>
  `Against the model as it was trained${drift.rows ? `, on ${plural(drift.rows, "row")}` : ""}: ${Object.entries(drift)
    .filter(([name]) => name !== "rows")
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${typeof value === "number" ? Number(value.toPrecision(4)) : value}`)
    .join(", ")}.`;
