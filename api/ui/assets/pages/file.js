// @ts-check
/** `#/files/ID`: one file, what its check found, and the jobs on it. */
import { html } from "../vendor/preact.js";
import { remove } from "../api.js";
import { useAction, useLoaded } from "../loaded.js";
import { AskFirst, Await, Empty, Facts, FaultNotice, Field, LinkButton, Page, Section, Status, Table, Time } from "../parts/basics.js";
import { Report } from "../parts/report.js";
import { go, href } from "../router.js";
import { useMay } from "../session.js";
import { bytes } from "../words.js";

const EVERY_MS = 1_000;
const MOST_JOBS = 20;

/** @param {import("../router.js").PageProps} props */
export default function OneFile({ params, query }) {
  const writes = useMay("write");
  const path = `/v1/files/${encodeURIComponent(params.id)}`;
  const file = useLoaded(path, {}, { every: EVERY_MS, until: (found) => found.status !== "uploaded" });
  const deleting = useAction(async () => {
    await remove(path);
    go("/files");
  });
  const found = file.data;
  const trains = found?.purpose === "fine-tune";
  return html`
    <${Page} title=${found?.filename ?? "File"} trail=${html`<a href="#/files">Files</a>`}
      actions=${found && html`
        ${writes && trains && found.status === "processed" &&
        html`<${LinkButton} main href=${href("/new", { file: params.id })}>Train on it</${LinkButton}>`}
        <a class="button" href=${`${path}/content`} download=${found.filename}>Download</a>
        ${writes && html`<${AskFirst} label="Delete" busy=${deleting.busy} act=${deleting.run}
          question="Delete this file? Its bytes are gone for good. Models that were trained on it stay." />`}`}>
      <${FaultNotice} fault=${deleting.fault} />
      <${Await} loaded=${file}>
        ${() => html`
          <${Section} title="Facts">
            <${Facts} pairs=${[
              ["State", html`<${Status} of=${found.status} />`],
              ["Holds", trains ? "a data set" : "metrics of a job"],
              ["Size", bytes(found.bytes)],
              ["Created", html`<${Time} at=${found.created_at} />`],
              ["Deleted by itself", found.expires_at && html`<${Time} at=${found.expires_at} />`],
            ]} />
            <p class="small"><span class="quiet">Id</span> <code>${found.id}</code>
              ${" "}<span class="quiet">SHA-256</span> <code>${found.sha256}</code></p>
          </${Section}>
          ${trains && html`<${Section} title="Check">
            ${found.status === "processed" && html`<${ForModel} id=${params.id} query=${query} />`}
            <${Report} fileId=${params.id} model=${query.get("model")} maxLength=${query.get("max_length")} />
          </${Section}>
          <${Jobs} id=${params.id} />`}`}
      </${Await}>
    </${Page}>
  `;
}

/** For which model tokens are counted. It is in the address. */
function ForModel({ id, query }) {
  const models = useLoaded("/v1/models");
  const put = (/** @type {string} */ name, /** @type {string} */ value) =>
    go(`/files/${id}`, { ...Object.fromEntries(query), [name]: value }, { replace: true });
  return html`
    <form class="row" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
      <${Field} label="Count tokens for" name="model">
        ${(given) => html`<select ...${given} value=${query.get("model") ?? ""}
          onChange=${(event) => put("model", event.target.value)}>
          <option value="">no model</option>
          ${(models.data?.data ?? []).map((model) => html`<option value=${model.id}>${model.id}</option>`)}
        </select>`}
      </${Field}>
      ${query.get("model") && html`<${Field} label="Maximum length" name="max_length">
        ${(given) => html`<input ...${given} type="number" min="8" placeholder="the context"
          value=${query.get("max_length") ?? ""} onChange=${(event) => put("max_length", event.target.value)} />`}
      </${Field}>`}
    </form>
  `;
}

function Jobs({ id }) {
  const jobs = useLoaded("/v1/fine_tuning/jobs", { file: id, limit: MOST_JOBS });
  return html`<${Section} title="Jobs on it">
    <${Await} loaded=${jobs}>
      ${(found) =>
        found.data.length
          ? html`<${Table} label="Jobs on it" rows=${found.data} columns=${[
                {
                  name: "Job",
                  cell: (job) =>
                    html`<a href=${href(`/jobs/${job.id}`)}><bdi>${job.user_provided_suffix ?? job.id}</bdi></a>`,
                },
                { name: "Uses it for", cell: (job) => (job.training_file === id ? "training" : "validation") },
                { name: "State", cell: (job) => html`<${Status} of=${job.status} />` },
                { name: "Model", cell: (job) => html`<bdi>${job.model}</bdi>` },
                { name: "Created", cell: (job) => html`<${Time} at=${job.created_at} />` },
              ]} />
              ${found.has_more && html`<p class="quiet small">Those are the newest ${MOST_JOBS}.</p>`}`
          : html`<${Empty} title="No job uses this file" />`}
    </${Await}>
  </${Section}>`;
}
