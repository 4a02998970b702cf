// @ts-check
/** `#/playground?model=NAME`: what has to be done to talk with a model. */
import { html } from "../vendor/preact.js";
import { useLoaded } from "../loaded.js";
import { Await, Code, Empty, Field, LinkButton, Notice, Page, Section } from "../parts/basics.js";
import { Serving } from "../parts/serving.js";
import { go } from "../router.js";
import { modelHref } from "./model/words.js";

/** @param {import("../router.js").PageProps} props */
export default function Playground({ query }) {
  const models = useLoaded("/v1/models");
  return html`
    <${Page} title="Playground">
      <${Notice} tone="warn">
        <p><strong>This version of Tunery answers no prompts.</strong> It trains models and does not
        serve them. Serve yours with vLLM by the commands below, and talk to that server. A finished
        job's samples show answers of base and tuned model side by side.</p>
      </${Notice}>
      <${Await} loaded=${models}>
        ${(/** @type {any} */ found) =>
          found.data.length
            ? html`<${Chosen} models=${found.data} wanted=${query.get("model")} />`
            : html`<${Empty} title="No models yet">
                <p>A job that succeeds leaves a tuned one.</p>
                <${LinkButton} href="#/models">Go to the models</${LinkButton}>
              </${Empty}>`}
      </${Await}>
    </${Page}>
  `;
}

function Chosen({ models, wanted }) {
  const tuned = models.filter((model) => model.base_model);
  const name = wanted ?? (tuned[0] ?? models[0]).id;
  const options = (/** @type {any[]} */ some) =>
    some.map((model) => html`<option key=${model.id} value=${model.id}>${model.id}</option>`);
  return html`
    <${Section} title="Serve a model">
      <${Field} label="Model" name="model">
        ${(given) => html`<select ...${given} value=${name}
          onInput=${(event) => go("/playground", { model: event.target.value }, { replace: true })}>
          ${!models.some((model) => model.id === name) && html`<option value=${name}>${name}</option>`}
          ${tuned.length > 0 && html`<optgroup label="Tuned models">${options(tuned)}</optgroup>`}
          <optgroup label="Base models">${options(models.filter((model) => !model.base_model))}</optgroup>
        </select>`}
      </${Field}>
      <${Serving} key=${name} name=${name} />
      <p><a href=${modelHref(name)}>About this model</a></p>
    </${Section}>
    <${Section} title="Then ask it">
      <p>vLLM listens on port 8000 of the machine where it was started:</p>
      <${Code} label="Request" text=${request(name)} />
    </${Section}>
  `;
}

const request = (/** @type {string} */ name) => `curl http://localhost:8000/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -d '${JSON.stringify({ model: name, messages: [{ role: "user", content: "Hello" }] })}'`;
