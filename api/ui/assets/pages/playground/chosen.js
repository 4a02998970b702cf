// @ts-check
/** Which models are asked, side by side. */
import { html } from "../../vendor/preact.js";
import { jobPath, modelPath } from "../../api.js";
import { useLoaded } from "../../loaded.js";
import { Field } from "../../parts/basics.js";
import { count } from "../../words.js";

const MOST = 4;

/**
 * @param {any[]} all Of `GET /v1/models`.
 * @returns {any[]} Those that write: an encoder does not.
 */
export function thatAnswer(all) {
  const encoders = new Set(all.filter((model) => model.tunery?.methods.includes("masked_lm")).map((model) => model.id));
  return all.filter((model) => !encoders.has(model.base_model ?? model.id));
}

/** @param {any[]} models @param {string[]} named @returns {string[]} Names of those that are asked. */
export function chosenOf(models, named) {
  if (named.length) return [...new Set(named)].slice(0, MOST);
  const tuned = models.find((model) => model.base_model);
  return tuned ? [tuned.id, tuned.base_model] : models.slice(0, 1).map((model) => model.id);
}

/**
 * The job that made the first of the chosen models that a job of this project made.
 * @param {any[]} models @param {string[]} chosen
 * @returns {{job: any, checkpoints: any[]}} `job` is null until it is known, and if there is none.
 */
export function useJobOf(models, chosen) {
  const bases = new Set(models.filter((model) => !model.base_model).map((model) => model.id));
  const tuned = chosen.find((name) => !bases.has(name));
  const model = useLoaded(tuned ? modelPath(tuned) : null);
  const id = model.data?.job_id;
  const job = useLoaded(id ? jobPath(id) : null);
  const checkpoints = useLoaded(id ? jobPath(id, "/checkpoints") : null, { limit: 100 });
  // A checkpoint of a whole model does not answer.
  const whole = job.data?.tunery.training?.finetuning_type === "full";
  return { job: job.data, checkpoints: whole ? [] : (checkpoints.data?.data ?? []) };
}

/**
 * @param {{models: any[], checkpoints: any[], chosen: string[], choose: (names: string[]) => void}} props
 */
export function Chosen({ models, checkpoints, chosen, choose }) {
  const names = [
    ...models.map((model) => model.id),
    ...checkpoints.map((each) => each.fine_tuned_model_checkpoint),
  ];
  const free = names.filter((name) => !chosen.includes(name));
  const one = (/** @type {string} */ name, /** @type {number} */ i) => html`
    <div class="one-model" key=${i}>
      <${Field} label=${chosen.length > 1 ? `Model ${i + 1}` : "Model"} name=${`model-${i + 1}`}>
        ${(/** @type {any} */ given) => html`<select ...${given} value=${name}
          onChange=${(/** @type {any} */ event) => choose(chosen.with(i, event.target.value))}>
          <${Options} models=${models} checkpoints=${checkpoints} free=${[name, ...free]} name=${name} />
        </select>`}
      </${Field}>
      ${chosen.length > 1 && html`<button type="button" class="small" aria-label=${`Remove model ${i + 1}`}
        onClick=${() => choose(chosen.toSpliced(i, 1))}>Remove</button>`}
    </div>`;
  return html`
    <div class="models">${chosen.map(one)}</div>
    ${chosen.length < MOST && free.length > 0 && html`<div class="actions">
      <button type="button" class="small" onClick=${() => choose([...chosen, free[0]])}>Add a model</button>
    </div>`}
  `;
}

function Options({ models, checkpoints, free, name }) {
  const group = (/** @type {string} */ label, /** @type {[string, string][]} */ some) => {
    const shown = some.filter(([id]) => free.includes(id));
    return shown.length > 0 && html`<optgroup label=${label}>
      ${shown.map(([id, words]) => html`<option key=${id} value=${id}>${words}</option>`)}
    </optgroup>`;
  };
  const plain = (/** @type {any} */ model) => /** @type {[string, string]} */ ([model.id, model.id]);
  const kept = checkpoints.map((/** @type {any} */ each) => [
    each.fine_tuned_model_checkpoint,
    `step ${count(each.step_number)}: ${each.fine_tuned_model_checkpoint}`,
  ]);
  const known = [...models.map(plain), ...kept].some(([id]) => id === name);
  return html`
    ${!known && html`<option value=${name}>${name}</option>`}
    ${group("Tuned models", models.filter((/** @type {any} */ model) => model.base_model).map(plain))}
    ${group("Checkpoints of the same job", kept)}
    ${group("Base models", models.filter((/** @type {any} */ model) => !model.base_model).map(plain))}
  `;
}
