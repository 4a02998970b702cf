// @ts-check
/** `#/playground?model=NAME`: how to talk with a model. */
import { html } from "../vendor/preact.js";
import { useLoaded } from "../loaded.js";
import { Await, Code, Empty, Field, LinkButton, Page, Section } from "../parts/basics.js";
import { Serving } from "../parts/serving.js";
import { go } from "../router.js";
import { modelHref } from "./model/words.js";

/** @param {import("../router.js").PageProps} props */
export default function Playground({ query }) {
  const models = useLoaded("/v1/models");
  return html`
    <${Page} title="Playground">
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
    <${Section} title="Ask a model">
      <${Field} label="Model" name="model">
        ${(given) => html`<select ...${given} value=${name}
          onInput=${(event) => go("/playground", { model: event.target.value }, { replace: true })}>
          ${!models.some((model) => model.id === name) && html`<option value=${name}>${name}</option>`}
          ${tuned.length > 0 && html`<optgroup label="Tuned models">${options(tuned)}</optgroup>`}
          <optgroup label="Base models">${options(models.filter((model) => !model.base_model))}</optgroup>
        </select>`}
      </${Field}>
      <p>It answers at this service's own address. <code>KEY</code> stands for an API key:</p>
      <${Code} label="Request" text=${request(name)} />
      <p><a href=${modelHref(name)}>About this model</a></p>
    </${Section}>
    <${Section} title="Serve it elsewhere">
      <${Serving} key=${name} name=${name} />
    </${Section}>
  `;
}

const request = (/** @type {string} */ name) => `curl ${location.origin}/v1/chat/completions \\
  -H "Authorization: Bearer KEY" -H "Content-Type: application/json" \\
  -d '${JSON.stringify({ model: name, messages: [{ role: "user", content: "Hello" }] })}'`;
