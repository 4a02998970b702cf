// @ts-check
/** `#/models/NAME`: one model, a base or a tuned one. */
import { html } from "../vendor/preact.js";
import { modelPath, remove } from "../api.js";
import { useAction, useLoaded } from "../loaded.js";
import { AskFirst, Await, Facts, FaultNotice, LinkButton, Notice, Page, Section, Time } from "../parts/basics.js";
import { Serving } from "../parts/serving.js";
import { go, href } from "../router.js";
import { useMay } from "../session.js";
import { bytes, count } from "../words.js";
import { Lineage } from "./model/lineage.js";
import { Sharing } from "./model/sharing.js";
import { Training } from "./model/training.js";
import { BaseState, isCheckpoint, modelHref, rough, verdict } from "./model/words.js";

const trail = html`<a href="#/models">Models</a>`;

/** @param {import("../router.js").PageProps} props */
export default function Model({ params }) {
  const name = params.name;
  const model = useLoaded(modelPath(name));
  return html`
    <${Page} title=${name} trail=${trail} actions=${model.data && html`<${Actions} model=${model.data} />`}>
      <${Await} loaded=${model}>
        ${(/** @type {any} */ found) =>
          found.base_model ? html`<${Tuned} model=${found} />` : html`<${Base} model=${found} />`}
      </${Await}>
    </${Page}>
  `;
}

function Actions({ model }) {
  const deleting = useAction(async () => {
    await remove(modelPath(model.id));
    go("/models", {}, { replace: true });
  });
  if (!useMay("write") || model.broken) return null;
  return html`
    <${LinkButton} href=${href("/new", { model: model.id })} main>${model.base_model ? "Train on from this" : "Fine-tune this"}</${LinkButton}>
    ${model.job_id &&
    !isCheckpoint(model.id) &&
    html`<${AskFirst} label="Delete" act=${deleting.run} busy=${deleting.busy}
      question=${`Delete ${model.id}, with its job's checkpoints, samples and exports? The job stays.`} />`}
    ${deleting.fault && html`<div class="whole"><${FaultNotice} fault=${deleting.fault} /></div>`}
  `;
}

function Base({ model }) {
  const facts = model.tunery;
  return html`
    ${model.broken &&
    html`<${Notice} tone="bad">
      <p><strong>It cannot be trained, and its jobs wait.</strong> <bdi>${model.broken}</bdi></p>
      <p>An operator repairs it, or upgrades the workers, and adds it again.</p>
    </${Notice}>`}
    <${Section} title="Base model" actions=${html`<${BaseState} model=${model} />`}>
      <${Facts} pairs=${[
        ["Family", facts.architecture],
        ["Parameters", rough(facts.parameters)],
        ["Size of its files", bytes(facts.bytes)],
        ["Context", `${count(facts.context_length)} tokens`],
        ["Licence", html`<bdi>${facts.licence ?? "not stated"}</bdi>`],
        ["Trained by", facts.methods.join(", ")],
        ["Chat template", facts.has_chat_template ? "yes" : "none: a job names one, or trains on plain text"],
        ["Added", html`<${Time} at=${model.created} />`],
        ["Version", html`<code>${model.revision}</code>`],
      ]} />
      ${!model.broken && html`<h3>What was examined</h3><p>${verdict(model)}</p>`}
    </${Section}>
    <${Section} title="What was made from it">
      <${Lineage} model=${model} />
      <p><a href=${href("/jobs", { model: model.id })}>All jobs on it</a></p>
    </${Section}>
    <${Section} title="Serve it elsewhere"><${Serving} name=${model.id} /></${Section}>
  `;
}

function Tuned({ model }) {
  const admin = useMay("admin");
  const own = Boolean(model.job_id);
  return html`
    ${!own &&
    html`<${Notice}>
      <p>It belongs to the project <bdi>${model.owned_by}</bdi>, which shares it with yours. You may
      start jobs from it; its files and its job are that project's.</p>
    </${Notice}>`}
    <${Section} title="Where it comes from"><${Lineage} model=${model} /></${Section}>
    ${own
      ? html`<${Training} jobId=${model.job_id} />`
      : html`<${Section} title="Tuned model">
          <${Facts} pairs=${[
            ["Base", html`<a href=${modelHref(model.base_model)}>${model.base_model}</a>`],
            ["Shared since", html`<${Time} at=${model.created} />`],
          ]} />
        </${Section}>`}
    <${Section} title="Serve it elsewhere"><${Serving} name=${model.id} /></${Section}>
    ${own && admin && html`<${Sharing} name=${model.id} />`}
  `;
}
