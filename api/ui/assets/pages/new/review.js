// @ts-check
/** Step 5: what it is called, what comes after it, and the start. */
import { html, useRef, useState } from "../../vendor/preact.js";
import { ask } from "../../api.js";
import { useAction, useLoaded } from "../../loaded.js";
import { Code, FaultNotice, Field, Section } from "../../parts/basics.js";
import { go } from "../../router.js";
import { useMay } from "../../session.js";
import { command, curl, node, python } from "../../parts/lines.js";
import { exportFormats, wrongAt } from "./schema.js";

const MOST_PAIRS = 16;

/**
 * @param {{draft: import("./draft.js").Draft, change: (change: any) => void, request: any, openapi: any,
 *   lacks: string | null, names: any, fault: any}} props
 */
export function Review({ draft, change, request, openapi, lacks, names, fault }) {
  // Whoever presses again, as no answer came, means the same job.
  const sent = useRef({ text: "", once: "" });
  const starting = useAction(async () => {
    const text = JSON.stringify(request);
    if (sent.current.text !== text) sent.current = { text, once: crypto.getRandomValues(new Uint32Array(4)).join("-") };
    const answer = await ask("POST", "/v1/fine_tuning/jobs", { json: request, once: sent.current.once });
    go(`/jobs/${(await answer.json()).id}`);
  });
  const wrong = (/** @type {string} */ path) => wrongAt(starting.fault, path) ?? wrongAt(fault, path);
  const text = (name, label, hint, numeric = false) => html`
    <${Field} label=${label} name=${name} hint=${hint} wrong=${wrong(name)}>
      ${(given) => html`<input ...${given} autocomplete="off" inputmode=${numeric ? "numeric" : undefined} value=${draft[name]}
        onInput=${(event) => change({ [name]: event.target.value })} />`}
    </${Field}>`;
  return html`
    <${Section} title="5. Review and start" id="start">
      <div class="pairs">
        ${text("suffix", "Name", "Becomes a part of the tuned model's name.")}
        ${text("seed", "Seed", "Of all randomness of the training. Empty: a random one.", true)}
      </div>
      <details open=${draft.metadata.length > 0 || undefined}>
        <summary>Metadata</summary>
        <${Metadata} pairs=${draft.metadata} put=${(metadata) => change({ metadata })} wrong=${wrong("metadata")} />
      </details>
      <details open=${draft.exports.length > 0 || undefined}>
        <summary>Exports after the training</summary>
        <${Exports} formats=${exportFormats(openapi)} chosen=${draft.exports} put=${(exports) => change({ exports })}
          wrong=${wrong("exports")} />
      </details>
      <details open=${Object.keys(draft.wandb).length > 0 || undefined}>
        <summary>Weights & Biases</summary>
        <${Wandb} wandb=${draft.wandb} put=${(wandb) => change({ wandb })} wrong=${wrong} />
      </details>
      ${!lacks && html`<${Programs} request=${request} names=${names} />`}
      <${FaultNotice} fault=${starting.fault} />
      ${lacks && html`<p class="quiet">${lacks}</p>`}
      <div class="actions">
        <button type="button" class="main" disabled=${starting.busy || lacks !== null} onClick=${() => starting.run()}>
          ${starting.busy ? "Starting …" : "Start the fine-tune"}
        </button>
      </div>
    </${Section}>
  `;
}

function Metadata({ pairs, put, wrong }) {
  const set = (i, part, text) => put(pairs.with(i, pairs[i].with(part, text)));
  return html`
    <p class="hint">Pairs that jobs are found by.</p>
    ${pairs.map(
      (/** @type {string[]} */ pair, /** @type {number} */ i) => html`<div class="pair" key=${i}>
        <input aria-label=${`Key ${i + 1}`} placeholder="key" value=${pair[0]}
          onInput=${(event) => set(i, 0, event.target.value)} />
        <input aria-label=${`Value ${i + 1}`} placeholder="value" value=${pair[1]}
          onInput=${(event) => set(i, 1, event.target.value)} />
        <button type="button" class="small" aria-label=${`Remove pair ${i + 1}`}
          onClick=${() => put(pairs.toSpliced(i, 1))}>Remove</button>
      </div>`,
    )}
    ${wrong && html`<p class="hint"><strong class="bad">${wrong}</strong></p>`}
    ${pairs.length < MOST_PAIRS &&
    html`<div class="actions">
      <button type="button" class="small" onClick=${() => put([...pairs, ["", ""]])}>Add a pair</button>
    </div>`}
  `;
}

/** @param {{name: string}} format @returns {(chosen: string) => boolean} */
const of = ({ name }) => (chosen) => chosen.split(" ")[0] === name;

const Exports = ({ formats, chosen, put, wrong }) => html`
  <fieldset class="plain">
    <legend class="unseen">Exports after the training</legend>
    ${formats.map(
      (format) => html`<label class="pick"><input type="checkbox" checked=${chosen.some(of(format))}
        onChange=${() => put(chosen.some(of(format)) ? chosen.filter((one) => !of(format)(one)) : [...chosen, format.name])} />
        ${" "}<code>${chosen.find(of(format)) ?? format.name}</code> <span class="quiet">${format.words}</span></label>`,
    )}
    ${wrong && html`<p class="hint"><strong class="bad">${wrong}</strong></p>`}
  </fieldset>
`;

/** @type {[string, string, string][]} */
const WANDB = [
  ["project", "Project", "Project in Weights & Biases."],
  ["name", "Run", "Empty: the job's id."],
  ["entity", "Team", "Empty: the key's own."],
  ["tags", "Tags", "With commas between them."],
];

function Wandb({ wandb, put, wrong }) {
  // Only an operator may ask whether there is a key; others are told when they start.
  const key = useLoaded(useMay("admin") ? "/v1/project/integrations/wandb" : null);
  if (key.fault?.status === 404) {
    return html`<p>This project has no key for Weights & Biases. An operator sets
      it: <code>PUT /v1/project/integrations/wandb</code>.</p>`;
  }
  const set = (/** @type {string} */ name, /** @type {string} */ text) => {
    const { [name]: _, ...others } = wandb;
    put(text || (name === "project" && Object.keys(others).length) ? { ...others, [name]: text } : others);
  };
  return html`<div class="pairs">
    ${WANDB.map(
      ([name, label, hint]) => html`<${Field} label=${label} name=${`wandb-${name}`} hint=${hint}
        wrong=${wrong(`integrations.0.wandb.${name}`)}>
        ${(given) => html`<input ...${given} autocomplete="off" value=${wandb[name] ?? ""}
          onInput=${(event) => set(name, event.target.value)} />`}
      </${Field}>`,
    )}
  </div>`;
}

/** The same job as a program. */
function Programs({ request, names }) {
  const base = `${location.origin}/v1`;
  const [shown, setShown] = useState("Python");
  /** @type {Record<string, () => string>} */
  const programs = {
    Python: () => python(request, base),
    Node: () => node(request, base),
    curl: () => curl(request, base),
    CLI: () => command(request, base, names),
  };
  return html`
    <h3>This very job as a program</h3>
    <div class="actions" role="group" aria-label="Language">
      ${Object.keys(programs).map(
        (name) => html`<button type="button" class="small" aria-pressed=${name === shown}
          onClick=${() => setShown(name)}>${name}</button>`,
      )}
    </div>
    <${Code} text=${programs[shown]()} label=${`This job in ${shown}`} />
  `;
}
