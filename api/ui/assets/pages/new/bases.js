// @ts-check
/** Step 2: which model the training starts from. */
import { html, useEffect, useState } from "../../vendor/preact.js";
import { ask } from "../../api.js";
import { useLoaded } from "../../loaded.js";
import { Await, Empty, Field, LinkButton, Notice, Section } from "../../parts/basics.js";
import { withCode } from "../../parts/text.js";
import { useMay } from "../../session.js";
import { bytes, count, plural, span } from "../../words.js";
import { Fits } from "./estimate.js";
import { wrongAt } from "./schema.js";

const AT_ONCE = 8;
const UNKNOWN = "a worker whose device is not known yet";
/** @type {[number, string][]} */
const UNITS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];

/** @param {number | null | undefined} parameters `494 M` */
export function parametersOf(parameters) {
  if (parameters == null) return null;
  const [size, sign] = UNITS.find(([size]) => parameters >= size) ?? [1, ""];
  return `${Number((parameters / size).toPrecision(3))} ${sign}`.trim();
}

/** All models, each with the facts of its base. */
export function useModels() {
  const loaded = useLoaded("/v1/models");
  const all = loaded.data?.data ?? [];
  const bases = new Map(all.map((model) => [model.id, model]));
  const models = all.map((model) => {
    const base = bases.get(model.base_model ?? model.id);
    return {
      id: model.id,
      tuned: model.base_model != null,
      base: model.base_model ?? model.id,
      broken: base?.broken ?? null,
      facts: base?.tunery ?? null,
    };
  });
  return { loaded, models };
}

/** What data and model ask for. @param {string | undefined} format @param {any} facts */
export function methodOf(format, facts) {
  if (facts?.methods.includes("masked_lm")) return "masked_lm";
  return format === "preference" ? "dpo" : "supervised";
}

/**
 * On which devices these models could be trained on a file with all settings left to the service,
 * asked one after the other.
 * @param {string | null} file @param {string | undefined} format @param {any[]} models
 * @returns {Record<string, {devices?: any[], refused?: string}>} By their ids.
 */
function useFits(file, format, models) {
  const [found, setFound] = useState(/** @type {Record<string, any>} */ ({}));
  const asked = models.map(({ id, facts }) => [id, methodOf(format, facts)]);
  useEffect(() => {
    if (!file) return undefined;
    const gone = new AbortController();
    const look = async () => {
      for (const [model, type] of asked) {
        const json = { model, training_file: file, method: { type } };
        const answer = await ask("POST", "/v1/fine_tuning/estimate", { json, signal: gone.signal }).then(
          (said) => said.json(),
          (fault) => (fault.status >= 500 || [0, 429].includes(fault.status) ? null : { refused: fault.message }),
        );
        if (gone.signal.aborted) return;
        setFound((earlier) => ({ ...earlier, [model]: answer }));
      }
    };
    setFound({});
    look();
    return () => gone.abort();
  }, [JSON.stringify([file, asked])]);
  return found;
}

/**
 * @param {{draft: import("./draft.js").Draft, change: (change: any) => void, models: any[], loaded: any,
 *   training: any, estimate: any, fault: any}} props `training`: the file object; null: none yet.
 */
export function Bases({ draft, change, models, loaded, training, estimate, fault }) {
  const [words, setWords] = useState("");
  const [shown, setShown] = useState(AT_ONCE);
  const operator = useMay("admin");
  const wanted = words.trim().toLowerCase();
  const told = (/** @type {any} */ { id, facts }) => `${id} ${facts?.architecture} ${facts?.licence}`.toLowerCase();
  // The chosen one is always seen, and those on top stay where they are.
  const found = models.filter((model) => model.id === draft.model || !wanted || told(model).includes(wanted));
  const first = found.slice(0, shown);
  const chosen = found.find((model) => model.id === draft.model);
  if (chosen && !first.includes(chosen)) first.push(chosen);
  const ready = training?.status === "processed" ? training.id : null;
  const fits = useFits(ready, training?.tunery?.format, first.filter((model) => model.broken === null));
  const byName = /^[\w.-]+\/[\w.-]+$/.test(words.trim()) && !models.some((model) => model.id === words.trim());
  const elsewhere = draft.model && loaded.data && !chosen;
  return html`
    <${Section} title="2. Base model" id="base">
      <${Await} loaded=${loaded}>
        ${() =>
          models.length === 0
            ? html`<${Empty} title="No base model yet">
                <p>An operator adds one: <code>tunery models add Qwen/Qwen3-0.6B</code></p>
                ${operator && html`<${LinkButton} href="#/admin/models">Base models</${LinkButton}>`}
              </${Empty}>`
            : html`
              ${(models.length > AT_ONCE || wanted) &&
              html`<${Field} label="Search" name="model-words" hint="A name, a family or a licence">
                ${(given) => html`<input ...${given} type="search" value=${words}
                  onInput=${(event) => setWords(event.target.value)} />`}
              </${Field}>`}
              <fieldset class="bases">
                <legend class="unseen">Base model</legend>
                ${first.map((model) => html`<${Base} key=${model.id} model=${model} checked=${model.id === draft.model}
                  fit=${model.id === draft.model ? estimate : fits[model.id]} choose=${() => change({ model: model.id })} />`)}
                ${elsewhere && html`<label class="base">
                  <input type="radio" name="model" checked /> <strong><bdi>${draft.model}</bdi></strong>
                  <span class="facts-line quiet">Not in the list: a checkpoint, or a model of the hub</span></label>`}
              </fieldset>
              ${found.length > first.length && html`<div class="actions">
                <button type="button" onClick=${() => setShown(shown + 4 * AT_ONCE)}>Show more (${count(found.length - first.length)} left)</button></div>`}
              ${byName && html`<div class="actions">
                <button type="button" onClick=${() => change({ model: words.trim() })}>Take ${words.trim()} from the hub, if this service may</button></div>`}
            `}
      </${Await}>
      ${wrongAt(fault, "model") && html`<${Notice} tone="bad"><p><bdi>${wrongAt(fault, "model")}</bdi></p></${Notice}>`}
    </${Section}>
  `;
}

function Base({ model, checked, fit, choose }) {
  const { id, facts, tuned, base, broken } = model;
  const line = [
    tuned && html`goes on from a tuned model of <bdi>${base}</bdi>`,
    facts && facts.architecture,
    facts?.parameters && `${parametersOf(facts.parameters)} parameters`,
    facts && bytes(facts.bytes),
    facts && `context ${plural(facts.context_length, "token")}`,
    facts && (facts.licence ? html`licence <bdi>${facts.licence}</bdi>` : "licence not stated"),
    facts && facts.methods.includes("masked_lm") && "reads masked texts",
    facts && !facts.has_chat_template && !facts.methods.includes("masked_lm") && "no chat template",
  ].filter(Boolean);
  return html`
    <label class=${checked ? "base chosen" : "base"}>
      <input type="radio" name="model" value=${id} checked=${checked} disabled=${broken !== null} onChange=${choose} />
      <strong><bdi>${id}</bdi></strong>
      <span class="facts-line quiet">${line.map((part, i) => html`${i ? " · " : ""}${part}`)}</span>
      ${broken !== null && html`<span class="facts-line bad">Cannot be trained: <bdi>${broken}</bdi></span>`}
      ${fit?.devices && html`<span class="facts-line">${fit.devices.map(onDevice)}
        ${!fit.devices.length && "No worker has shown itself yet, so nothing can be said of devices."}</span>`}
      ${fit?.refused && html`<span class="facts-line bad">✕ <bdi>${withCode(fit.refused)}</bdi></span>`}
    </label>
  `;
}

/** @param {any} device @param {number} i */
const onDevice = (device, i) => html`${i ? ", " : ""}<${Fits} device=${device} /> ${device.device ?? UNKNOWN}${
  device.seconds && `, ${span(device.seconds)}`
}`;


