// @ts-check
/** Step 3: how it is trained. Every setting is one that the service describes. */
import { html } from "../../vendor/preact.js";
import { Field, Section } from "../../parts/basics.js";
import { withCode } from "../../parts/text.js";
import { measure } from "../../words.js";
import { wrongAt } from "./schema.js";

/** Those that are tried first, by their usual words. @type {Record<string, string>} */
const MAIN = {
  "hyperparameters.n_epochs": "Epochs",
  "hyperparameters.batch_size": "Batch size",
  "hyperparameters.learning_rate_multiplier": "Learning rate multiplier",
  "hyperparameters.beta": "Beta",
  "hyperparameters.mask_probability": "Mask probability",
  "lora.r": "LoRA rank",
  "training.quantization": "Quantization",
  "training.max_length": "Maximum length",
};
/** @type {[string, string][]} */
const METHODS = [
  ["supervised", "Supervised: learn the answers"],
  ["dpo", "DPO: prefer one answer over another"],
  ["masked_lm", "Masked language modelling: guess hidden words (encoders)"],
];

/**
 * @param {{draft: import("./draft.js").Draft, change: (change: any) => void, method: string, said: string,
 *   settings: import("./schema.js").Setting[], estimate: any, fault: any}} props `said`: the method
 *   that the data and the model ask for.
 */
export function Settings({ draft, change, method, said, settings, estimate, fault }) {
  const put = (/** @type {string} */ path, /** @type {string} */ typed) => {
    const { [path]: _, ...others } = draft.settings;
    change({ settings: typed ? { ...others, [path]: typed } : others });
  };
  const one = (/** @type {import("./schema.js").Setting} */ setting) => html`<${One} key=${setting.path} setting=${setting}
    typed=${draft.settings[setting.path] ?? ""} put=${put} estimate=${estimate} wrong=${wrongAt(fault, setting.path)} />`;
  const main = settings.filter(({ path }) => MAIN[path]);
  const advanced = settings.filter(({ path }) => !MAIN[path]);
  const changed = advanced.filter(({ path }) => draft.settings[path]).length;
  const refused = advanced.some(({ path }) => wrongAt(fault, path));
  return html`
    <${Section} title="3. Method and settings" id="settings">
      <${Field} label="Method" name="method" wrong=${wrongAt(fault, "method.type") ?? wrongAt(fault, "method")}
        hint=${draft.method ? null : "What the data and the model ask for."}>
        ${(given) => html`<select ...${given} value=${method}
          onChange=${(event) => change({ method: event.target.value === said ? "" : event.target.value })}>
          ${METHODS.map(([name, words]) => html`<option value=${name}>${words}</option>`)}
        </select>`}
      </${Field}>
      <p class="hint">What is left empty is decided by the service, which says how and why.</p>
      <div class="pairs">${main.map(one)}</div>
      <details open=${refused || undefined}>
        <summary>Advanced settings${changed > 0 && ` (${changed} set)`}</summary>
        <div class="pairs">${advanced.map(one)}</div>
      </details>
    </${Section}>
  `;
}

function One({ setting, typed, put, estimate, wrong }) {
  const { path, name, words, range, kind, choices, long } = setting;
  const became = resolved(estimate, setting);
  const why = estimate?.reasons[name] ?? estimate?.reasons[path];
  const auto = !typed && became !== null;
  const label = MAIN[path] ?? `${setting.place === "lora" ? "lora." : ""}${name}`;
  const bounds = range && !words.includes(range) ? ` ${range[0].toUpperCase()}${range.slice(1)}.` : "";
  const hint = html`${withCode(words)}${bounds}
    ${auto && html`<span class="became">Now <strong><bdi>${became}</bdi></strong>${why && html`: <bdi>${why}</bdi>`}.</span>`}`;
  const input = (event) => put(path, event.target.value);
  return html`<${Field} label=${label} name=${path} hint=${hint} wrong=${wrong}>
    ${(given) => {
      if (kind === "choice" || kind === "truth") {
        const options = kind === "truth" ? [["true", "yes"], ["false", "no"]] : choices.map((/** @type {string} */ one) => [one, one]);
        return html`<select ...${given} value=${typed} onChange=${input}>
          <option value="">auto</option>
          ${options.map(([value, shown]) => html`<option value=${value}>${shown}</option>`)}
        </select>`;
      }
      if (long) return html`<textarea ...${given} rows="2" spellcheck=${false} value=${typed} onInput=${input}></textarea>`;
      return html`<input ...${given} autocomplete="off" spellcheck=${false} placeholder=${auto ? `auto: ${became}` : "auto"}
        inputmode=${kind === "whole" ? "numeric" : kind === "number" ? "decimal" : undefined} value=${typed} onInput=${input} />`;
    }}
  </${Field}>`;
}

/** What a setting became, in words. @param {any} estimate @param {import("./schema.js").Setting} setting */
function resolved(estimate, { place, name }) {
  const value = estimate?.[place]?.[name === "bnb_4bit_use_double_quant" ? "double_quant" : name];
  if (value === null || value === undefined) return null;
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : measure(value);
  return Array.isArray(value) ? value.join(", ") : String(value);
}
