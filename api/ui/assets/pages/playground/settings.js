// @ts-check
/** How models are asked: as it stands in the address, and as it is sent. */
import { html } from "../../vendor/preact.js";
import { Field } from "../../parts/basics.js";
import { at as wrongAt } from "../../parts/refusals.js";

/** What is in the address beside the models. */
export const NAMES = ["as", "system", "temperature", "max", "seed", "stop", "tools"];

/**
 * @typedef {Record<string, string>} Settings As typed; what is empty is left to the service.
 * @param {URLSearchParams} query @returns {Settings}
 */
export const settingsOf = (query) => Object.fromEntries(NAMES.map((name) => [name, query.get(name) ?? ""]));

/**
 * @param {Settings} settings
 * @returns {{how: import("../../answers.js").How, wrong: string | null}} `wrong`: what cannot be sent.
 */
export function howOf(settings) {
  /** @type {Record<string, any>} */
  const sampling = {};
  if (settings.temperature) sampling.temperature = Number(settings.temperature);
  if (settings.max) sampling.max_completion_tokens = Number(settings.max);
  if (settings.seed) sampling.seed = Number(settings.seed);
  const stops = settings.stop.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));
  if (stops.length) sampling.stop = stops;
  let wrong = null;
  if (settings.tools.trim()) {
    try {
      sampling.tools = JSON.parse(settings.tools);
    } catch (error) {
      wrong = `This is not JSON: ${/** @type {Error} */ (error).message}.`;
    }
  }
  return { how: { system: settings.system, plain: settings.as === "text", sampling }, wrong };
}

/**
 * @param {{settings: Settings, change: (changed: Settings) => void, wrong: string | null,
 *   fault: import("../../api.js").Fault | null}} props `fault`: the newest refusal.
 */
export function SettingsForm({ settings, change, wrong, fault }) {
  const plain = settings.as === "text";
  const typed = (/** @type {string} */ name) => ({
    value: settings[name],
    onInput: (/** @type {any} */ event) => change({ [name]: event.target.value }),
  });
  const number = (/** @type {string} */ name, /** @type {string} */ label, /** @type {string} */ hint, /** @type {string} */ param, /** @type {any} */ limits) => html`
    <${Field} label=${label} name=${name} hint=${hint} wrong=${wrongAt(fault, param)}>
      ${(/** @type {any} */ given) => html`<input ...${given} type="number" ...${limits} ...${typed(name)} />`}
    </${Field}>`;
  return html`
    <${Field} label="Ask as" name="as" hint=${plain
      ? "The model goes on with the text, as one that was trained on texts does. Each question stands by itself."
      : "The model's chat template makes a text of the conversation."}>
      ${(/** @type {any} */ given) => html`<select ...${given} ...${typed("as")}>
        <option value="">a chat</option><option value="text">a plain text</option>
      </select>`}
    </${Field}>
    ${!plain && html`<${Field} label="System prompt" name="system">
      ${(/** @type {any} */ given) => html`<textarea ...${given} rows="2" ...${typed("system")}></textarea>`}
    </${Field}>`}
    <div class="pairs">
      ${number("temperature", "Temperature", "Empty: 1. At 0 the likeliest word is always chosen.", "temperature", { min: 0, max: 2, step: "any" })}
      ${number("max", "Maximum tokens", `Of one answer. Empty: ${plain ? "16" : "as many as the model's context has room for"}.`, plain ? "max_tokens" : "max_completion_tokens", { min: 1, step: 1 })}
      ${number("seed", "Seed", "The same one gives the same answer on the same machine.", "seed", { step: 1 })}
      <${Field} label="Stop texts" name="stop" wrong=${wrongAt(fault, "stop")}
        hint=${html`One a line, at most four; <code>\\n</code> is a line break. They end an answer.`}>
        ${(/** @type {any} */ given) => html`<textarea ...${given} rows="1" ...${typed("stop")}></textarea>`}
      </${Field}>
      ${!plain && html`<${Field} label="Tools" name="tools" wrong=${wrong ?? wrongAt(fault, "tools")}
        hint="Functions that the model may call: a JSON list, as OpenAI describes them. What it calls is shown; nothing is run.">
        ${(/** @type {any} */ given) => html`<textarea ...${given} rows="1" spellcheck=${false} ...${typed("tools")}></textarea>`}
      </${Field}>`}
    </div>
  `;
}
