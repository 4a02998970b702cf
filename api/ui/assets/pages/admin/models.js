// @ts-check
/** `#/admin/models`: the base models that jobs can start from. */
import { html, useState } from "../../vendor/preact.js";
import { useLoaded } from "../../loaded.js";
import { Await, Code, Empty, Facts, Notice, Page, Section, Table } from "../../parts/basics.js";
import { go, href } from "../../router.js";
import { bytes, count } from "../../words.js";
import { BaseState, briefly, modelHref, rough } from "../model/words.js";
import { FromHub } from "./from_hub.js";

/** @param {import("../../router.js").PageProps} props */
export default function BaseModels({ query }) {
  const workers = useLoaded("/v1/admin/workers", {}, { every: 10_000 });
  return html`
    <${Page} title="Base models">
      <${Await} loaded=${workers}>
        ${(/** @type {any} */ found) => html`<${Known} workers=${found.data} again=${query.get("again")} />`}
      </${Await}>
    </${Page}>
  `;
}

function Known({ workers, again }) {
  const models = useLoaded("/v1/models", {}, { every: 10_000 });
  const [added, setAdded] = useState(/** @type {any} */ (null));
  return html`
    <${Await} loaded=${models}>
      ${(/** @type {any} */ found) => {
        const bases = found.data.filter((/** @type {any} */ model) => !model.base_model);
        const changed = bases.find((/** @type {any} */ model) => model.id === again) ?? null;
        const done = (/** @type {any} */ facts) => {
          setAdded(facts);
          models.reload();
          go("/admin/models", {}, { replace: true });
        };
        return html`
          ${added && html`<${Added} facts=${added} />`}
          ${bases.length
            ? html`<${Section} title="Registered"><${List} bases=${bases} workers=${workers} /></${Section}>`
            : html`<${Empty} title="No base models yet"><p>Add one below.</p></${Empty}>`}
          <${Section} title=${changed ? `Add ${changed.id} again` : "Add by its name on the hub"}>
            <${FromHub} key=${again} again=${changed} done=${done} />
          </${Section}>
          ${!changed && html`<${FromFolder} />`}
        `;
      }}
    </${Await}>
  `;
}

const Added = ({ facts }) => html`
  <${Notice} tone="good">
    <p><a href=${modelHref(facts.id)}>${facts.id}</a> is registered at version <code>${facts.revision}</code>.
    Each worker fetches it when its first job begins, and examines its family before it trains.</p>
    <${Facts} pairs=${[
      ["Family", facts.architecture],
      ["Context", `${count(facts.context_length)} tokens`],
      ["Size", `${bytes(sizeOf(facts.files))} in ${count(facts.files.length)} files`],
      ["Licence", html`<bdi>${facts.licence ?? "not stated"}</bdi>`],
    ]} />
  </${Notice}>
`;

const sizeOf = (/** @type {any[]} */ files) => files.reduce((sum, file) => sum + file.bytes, 0);

const List = ({ bases, workers }) => html`<${Table} label="Base models" rows=${bases} columns=${[
  {
    name: "Model",
    cell: (model) => html`<div><a href=${modelHref(model.id)}>${model.id}</a><br />
      <span class="quiet small">${model.tunery.architecture}, ${rough(model.tunery.parameters)} parameters, ${bytes(model.tunery.bytes)}</span></div>`,
  },
  {
    name: "State",
    cell: (model) => html`<div><${BaseState} model=${model} />
      ${(model.broken || model.examined) &&
      html`<p class="small"><bdi>${model.broken ?? briefly(model.examined)}</bdi></p>`}</div>`,
  },
  { name: "Chat template", cell: (model) => (model.tunery.has_chat_template ? "yes" : "none") },
  { name: "Workers", cell: (model) => html`<${On} model=${model} workers=${workers} />` },
  {
    name: "Change",
    hidden: true,
    cell: (model) => html`<a class="button small" href=${href("/admin/models", { again: model.id })}>Add again</a>`,
  },
]} />`;

/** The workers that have fetched it, and those that cannot load it. */
function On({ model, workers }) {
  const here = workers.filter((one) => one.state !== "offline");
  const holding = here.filter((one) => one.holds.includes(model.id));
  const lacking = here.filter((one) => model.id in one.lacks);
  if (!holding.length && !lacking.length) return "–";
  const names = (/** @type {any[]} */ some) => some.map((one) => html`<li key=${one.id}><bdi>${one.name}</bdi></li>`);
  return html`<div>
    ${holding.length > 0 && html`fetched by <ul class="names">${names(holding)}</ul>`}
    ${lacking.length > 0 && html`<span class="bad">not loadable on</span> <ul class="names">${names(lacking)}</ul>`}
  </div>`;
}

const FromFolder = () => html`
  <${Section} title="Add by its folder">
    <p>A folder is read where it lies, so a command does it, on a machine that sees it: with a folder
    that every worker sees at the same path, or sent into the service's storage, from which workers
    fetch it. Either examines the family first, if torch is installed there. Give a folder that is
    registered already the same name again to repair it. With <code>--chat-template</code> it has another
    template.</p>
    <${Code} label="Add a folder" text=${"tunery models add /models/llama --name meta-llama/Llama-3.1-8B"} />
    <${Code} label="Send a folder" text=${"tunery models push /models/llama --name meta-llama/Llama-3.1-8B"} />
  </${Section}>
`;
