// @ts-check
/** `#/models`: the project's tuned models, those that others share with it, and base models. */
import { html } from "../vendor/preact.js";
import { useLoaded } from "../loaded.js";
import { Await, Empty, Field, LinkButton, Page, Section, Table, Time } from "../parts/basics.js";
import { go, href } from "../router.js";
import { useMay } from "../session.js";
import { bytes, count } from "../words.js";
import { BaseState, modelHref, rough } from "./model/words.js";

const EVERY_MS = 5_000;
const MOST_SHOWN = 200;

/** @param {import("../router.js").PageProps} props */
export default function Models({ query }) {
  const models = useLoaded("/v1/models", {}, { every: EVERY_MS });
  const writes = useMay("write");
  return html`
    <${Page} title="Models"
      actions=${writes && html`<${LinkButton} href="#/new" main>New fine-tune</${LinkButton}>`}>
      <${Await} loaded=${models}>
        ${(/** @type {any} */ found) => {
          const tuned = found.data.filter((/** @type {any} */ model) => model.base_model);
          return html`
            <${Tuned} models=${tuned} word=${query.get("q") ?? ""} writes=${writes} />
            <${Bases} models=${found.data.filter((/** @type {any} */ model) => !model.base_model)} />
          `;
        }}
      </${Await}>
    </${Page}>
  `;
}

function Tuned({ models, word, writes }) {
  if (!models.length) {
    return html`<${Section} title="Tuned models">
      <${Empty} title="No tuned models yet">
        <p>A job that succeeds leaves one here.</p>
        ${writes && html`<${LinkButton} href="#/new" main>New fine-tune</${LinkButton}>`}
      </${Empty}>
    </${Section}>`;
  }
  const fits = models.filter((model) => model.id.toLowerCase().includes(word.toLowerCase()));
  const shown = fits.slice(0, MOST_SHOWN);
  return html`
    <${Section} title="Tuned models">
      ${(models.length > 10 || word) &&
      html`<${Field} label="Part of the name" name="q">
        ${(given) => html`<input ...${given} type="search" value=${word}
          onInput=${(event) => go("/models", { q: event.target.value }, { replace: true })} />`}
      </${Field}>`}
      ${shown.length
        ? html`<${Table} label="Tuned models" rows=${shown} columns=${[
            { name: "Model", cell: (model) => html`<a href=${modelHref(model.id)}>${model.id}</a>` },
            { name: "Made from", cell: madeFrom },
            {
              name: "By",
              cell: (model) =>
                model.job_id
                  ? html`<a href=${href(`/jobs/${model.job_id}`)}>${model.job_id}</a>`
                  : html`Shared by <bdi>${model.owned_by}</bdi>`,
            },
            { name: "Since", cell: (model) => html`<${Time} at=${model.created} />` },
          ]} />`
        : html`<p>No tuned model has this in its name.</p>`}
      ${fits.length > shown.length &&
      html`<p class="quiet">${count(fits.length - shown.length)} more: enter a part of the name.</p>`}
    </${Section}>
  `;
}

const madeFrom = (model) => {
  const from = model.went_on_from ?? model.base_model;
  return html`<a href=${modelHref(from)}>${from}</a>`;
};

const Bases = ({ models }) => html`
  <${Section} title="Base models">
    ${models.length
      ? html`<${Table} label="Base models" rows=${models} columns=${[
          { name: "Model", cell: (model) => html`<a href=${modelHref(model.id)}>${model.id}</a>` },
          { name: "State", cell: (model) => html`<${BaseState} model=${model} />` },
          { name: "Family", cell: (model) => model.tunery.architecture },
          { name: "Parameters", number: true, cell: (model) => rough(model.tunery.parameters) },
          { name: "Size", number: true, cell: (model) => bytes(model.tunery.bytes) },
          { name: "Context", number: true, cell: (model) => count(model.tunery.context_length) },
          { name: "Licence", cell: (model) => html`<bdi>${model.tunery.licence ?? "not stated"}</bdi>` },
        ]} />`
      : html`<${Empty} title="No base models yet">
          <p>An operator adds one under Base models, or with <code>tunery models add</code>.</p>
        </${Empty}>`}
  </${Section}>
`;
