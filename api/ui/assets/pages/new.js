// @ts-check
/** `#/new`: a fine-tune, from its data to its start. What is filled in is in the address. */
import { html, useEffect, useState } from "../vendor/preact.js";
import { jobPath } from "../api.js";
import { useLoaded } from "../loaded.js";
import { Await, FaultNotice, Page } from "../parts/basics.js";
import { useMay } from "../session.js";
import { Bases, methodOf, useModels } from "./new/bases.js";
import { Data, ReadersSentence } from "./new/data.js";
import { fromRequest, requestOf, useDraft } from "./new/draft.js";
import { Estimate, useEstimate } from "./new/estimate.js";
import { Review } from "./new/review.js";
import { settingsOf, splitOf } from "./new/schema.js";
import { Settings } from "./new/settings.js";

/** @param {import("../router.js").PageProps} props */
export default function New({ query }) {
  const writes = useMay("write");
  return html`
    <${Page} title="New fine-tune">${writes ? html`<${Form} query=${query} />` : html`<${ReadersSentence} />`}</${Page}>
  `;
}

function Form({ query }) {
  const schema = useLoaded("/openapi.json");
  const openapi = schema.data;
  const [draft, change] = useDraft(query);
  const from = query.get("from");
  const job = useLoaded(from ? jobPath(from, "/request") : null);
  useEffect(() => {
    if (job.data) change(fromRequest(job.data.asked));
  }, [job.data]);

  const { loaded, models } = useModels();
  const training = useFile(draft.file);
  const validation = useFile(draft.validation);
  const said = methodOf(training?.tunery?.format, models.find((model) => model.id === draft.model)?.facts);
  const method = draft.method || said;
  const lacks = openapi ? lacking(draft, training) : "Loading …";
  const settings = openapi ? settingsOf(openapi, method, draft.settings) : [];
  const request = openapi && requestOf(draft, method, [...settings, splitOf(openapi)]);
  const estimate = useEstimate(lacks ? null : request);
  const { data, fault } = estimate;
  const maxLength = useSettled(Number(draft.settings["training.max_length"]) || null);
  const names = {
    training: nameOf(training, "training"),
    validation: nameOf(validation, "validation"),
    columns: training?.columns,
  };
  return html`
    <${FaultNotice} fault=${job.fault} />
    <div class="new">
      <div class="steps">
        <${Data} draft=${draft} change=${change} split=${openapi && splitOf(openapi)} training=${training}
          validation=${validation} maxLength=${maxLength} fault=${fault} />
        <${Bases} draft=${draft} change=${change} models=${models} loaded=${loaded} training=${training}
          estimate=${fault ? null : data} fault=${fault} />
        <${Await} loaded=${schema}>
          ${() => html`<${Settings} draft=${draft} change=${change} method=${method} said=${said}
            settings=${settings} estimate=${data} fault=${fault} />`}
        </${Await}>
      </div>
      <div class="aside">
        <${Estimate} estimate=${estimate} lacks=${lacks} />
      </div>
      <div class="steps">
        ${openapi && html`<${Review} draft=${draft} change=${change} request=${request} openapi=${openapi}
          lacks=${lacks} fault=${fault} names=${names} />`}
      </div>
    </div>
  `;
}

const SETTLED_MS = 800;

/**
 * A value, once nobody changes it any more: what depends on it takes the service seconds.
 * @template T
 * @param {T} value
 * @returns {T}
 */
function useSettled(value) {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), SETTLED_MS);
    return () => clearTimeout(timer);
  }, [value]);
  return settled;
}

/** @param {string} id */
function useFile(id) {
  const path = id ? `/v1/files/${encodeURIComponent(id)}` : null;
  return useLoaded(path, {}, { every: 1_000, until: (found) => found.status !== "uploaded" }).data;
}

/** A plain name whose end is the file's: it says how its rows are written. @param {any} file @param {string} name */
const nameOf = (file, name) => `${name}${/\.[a-z0-9]{1,8}(\.(gz|zst))?$/i.exec(file?.filename ?? "")?.[0] ?? ".jsonl"}`;

/** What must be there before anything can be estimated or started. @param {any} draft @param {any} training */
function lacking(draft, training) {
  if (!draft.file) return "Choose the data first.";
  if (training?.status === "error") return "The training file has faults. Fix them, or take another file.";
  return draft.model ? null : "Choose a base model.";
}
