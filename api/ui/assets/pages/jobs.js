// @ts-check
/** `#/jobs`: the project's jobs as they are now, to be found, followed and compared. */
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { jobPath } from "../api.js";
import { useLoaded } from "../loaded.js";
import { Await, Empty, Field, LinkButton, Meter, Page, Status, Table, Time } from "../parts/basics.js";
import { Spark } from "../parts/spark.js";
import { go, href } from "../router.js";
import { useMay } from "../session.js";
import { count, measure } from "../words.js";

const EVERY_MS = 1_500;
const ON_A_PAGE = 20;
const MOST_COMPARED = 5;
const STATES = [
  ["", "Any state"],
  ["running", "Running"],
  ["queued", "Queued"],
  ["validating_files", "Checking files"],
  ["paused", "Paused"],
  ["succeeded", "Succeeded"],
  ["failed", "Failed"],
  ["cancelled", "Cancelled"],
];

/** @param {import("../router.js").PageProps} props */
export default function Jobs({ query }) {
  const writes = useMay("write");
  const [chosen, setChosen] = useState(/** @type {string[]} */ ([]));
  const asked = Object.fromEntries(["status", "q", "model", "tag"].map((name) => [name, query.get(name)]));
  const after = query.get("after");
  const filtered = Object.values(asked).some(Boolean);
  const jobs = useLoaded(
    "/v1/fine_tuning/jobs",
    { ...filterOf(asked), limit: ON_A_PAGE, after },
    { every: EVERY_MS },
  );
  const choose = (/** @type {string} */ id) =>
    setChosen(chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen, id]);
  const start = writes && html`<${LinkButton} href="#/new" main>New fine-tune</${LinkButton}>`;

  return html`
    <${Page} title="Jobs" actions=${start}>
      <${Filters} asked=${asked} />
      <${Await} loaded=${jobs}>
        ${(/** @type {any} */ found) => html`
          <${Compared} chosen=${chosen} clear=${() => setChosen([])} />
          ${found.data.length
            ? html`<div class="card">
                <${Table} label="Jobs" rows=${found.data} columns=${columns(chosen, choose)} />
                <nav class="actions" aria-label="Pages">
                  ${after && html`<${LinkButton} href=${href("/jobs", asked)}>Newest</${LinkButton}>`}
                  ${found.has_more &&
                  html`<${LinkButton} href=${href("/jobs", { ...asked, after: found.last_id })}>Older</${LinkButton}>`}
                </nav>
              </div>`
            : html`<${Nothing} filtered=${filtered} writes=${writes} />`}
        `}
      </${Await}>
    </${Page}>
  `;
}

/** @param {Record<string, string | null>} asked */
function filterOf({ tag, ...rest }) {
  if (!tag) return rest;
  const [key, ...value] = tag.split("=");
  return { ...rest, [`metadata[${key.trim()}]`]: value.join("=").trim() };
}

function Filters({ asked }) {
  const [words, setWords] = useState(asked.q ?? "");
  const [tag, setTag] = useState(asked.tag ?? "");
  const [model, setModel] = useState(asked.model ?? "");
  const sent = useRef(words);
  const show = (/** @type {Record<string, any>} */ changed) => {
    sent.current = changed.q ?? asked.q ?? "";
    go("/jobs", { ...asked, ...changed }, { replace: true });
  };
  useEffect(() => {
    const timer = setTimeout(() => words !== (asked.q ?? "") && show({ q: words }), 300);
    return () => clearTimeout(timer);
  }, [words, asked.status, asked.tag, asked.model]);
  // A link, or the back button, leads to another list.
  useEffect(() => {
    if ((asked.q ?? "") !== sent.current) setWords(asked.q ?? "");
    sent.current = asked.q ?? "";
  }, [asked.q]);
  useEffect(() => setTag(asked.tag ?? ""), [asked.tag]);
  useEffect(() => setModel(asked.model ?? ""), [asked.model]);
  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    show({ q: words, tag, model });
  };
  return html`
    <form class="row" role="search" onSubmit=${send}>
      <${Field} label="Search" name="q">
        ${(/** @type {any} */ given) => html`<input ...${given} type="search" maxlength="128" value=${words}
          placeholder="id, suffix or model" onInput=${(/** @type {any} */ event) => setWords(event.target.value)} />`}
      </${Field}>
      <${Field} label="State" name="status">
        ${(/** @type {any} */ given) => html`<select ...${given} value=${asked.status ?? ""}
          onChange=${(/** @type {any} */ event) => show({ status: event.target.value })}>
          ${STATES.map(([value, name]) => html`<option value=${value} selected=${value === (asked.status ?? "")}>${name}</option>`)}
        </select>`}
      </${Field}>
      <${Field} label="Base or tuned model" name="model">
        ${(/** @type {any} */ given) => html`<input ...${given} maxlength="512" value=${model}
          onInput=${(/** @type {any} */ event) => setModel(event.target.value)} />`}
      </${Field}>
      <${Field} label="Metadata" name="tag">
        ${(/** @type {any} */ given) => html`<input ...${given} value=${tag} placeholder="key=value"
          onInput=${(/** @type {any} */ event) => setTag(event.target.value)} />`}
      </${Field}>
      <button type="submit">Show</button>
    </form>
  `;
}

/** @param {string[]} chosen @param {(id: string) => void} choose */
const columns = (chosen, choose) => [
  {
    name: "Compare",
    hidden: true,
    cell: (/** @type {any} */ job) => html`<input type="checkbox" aria-label=${`Compare ${nameOf(job)}`}
      checked=${chosen.includes(job.id)} disabled=${!chosen.includes(job.id) && chosen.length === MOST_COMPARED}
      onChange=${() => choose(job.id)} />`,
  },
  {
    name: "Job",
    cell: (/** @type {any} */ job) => html`<div>
      <a href=${href(`/jobs/${job.id}`)}><bdi>${nameOf(job)}</bdi></a>
      ${job.user_provided_suffix && html`<div class="small quiet">${job.id}</div>`}
    </div>`,
  },
  { name: "State", cell: (/** @type {any} */ job) => html`<${Standing} job=${job} />` },
  { name: "Loss", cell: (/** @type {any} */ job) => html`<${Loss} job=${job} />` },
  { name: "Base", cell: (/** @type {any} */ job) => html`<bdi>${job.model}</bdi>` },
  { name: "Method", cell: (/** @type {any} */ job) => methodOf(job) },
  {
    name: "Trained tokens",
    number: true,
    cell: (/** @type {any} */ job) => count(job.trained_tokens),
  },
  { name: "Created", cell: (/** @type {any} */ job) => html`<${Time} at=${job.created_at} />` },
];

/** @param {any} job */
const nameOf = (job) => job.user_provided_suffix ?? job.id;

/** @param {any} job */
function methodOf(job) {
  const { training, quantization } = job.tunery;
  const kind = { supervised: "SFT", dpo: "DPO", masked_lm: "masked LM" }[job.method.type] ?? job.method.type;
  if (training?.finetuning_type === "full") return `${kind}, full`;
  const quantized = job.tunery.plan?.quantization ?? quantization;
  return `${kind}, ${quantized && !["none", "auto"].includes(quantized) ? "QLoRA" : "LoRA"}`;
}

function Standing({ job }) {
  const progress = job.tunery.progress;
  const shown = progress && ["running", "paused"].includes(job.status);
  return html`<div class="standing">
    <${Status} of=${job.status} />
    ${shown &&
    html`<${Meter} value=${progress.step} most=${progress.total_steps}
        label=${`Step ${progress.step} of ${progress.total_steps}`} />
      <span class="small quiet">step ${count(progress.step)} of ${count(progress.total_steps)}</span>`}
    ${job.status === "failed" && job.error && html`<span class="small"><bdi>${short(job.error.message)}</bdi></span>`}
  </div>`;
}

/** @param {string} text Its first sentence, or what fits of it. */
function short(text) {
  const first = text.split(/(?<=[.!?])\s/)[0];
  return first.length > 90 ? `${first.slice(0, 89)}…` : first;
}

/** The curve so far, and where it stands. */
function Loss({ job }) {
  const begun = job.tunery.progress && job.status !== "queued";
  const running = job.status === "running";
  const curves = useLoaded(
    begun ? jobPath(job.id, "/metrics") : null,
    { limit: 40 },
    running ? { every: 2 * EVERY_MS } : {},
  );
  if (!curves.data) return html`<span class="quiet">–</span>`;
  const at = curves.data.columns.indexOf("train_loss");
  const losses = curves.data.points.map((/** @type {any[]} */ point) => point[at]).filter((/** @type {any} */ v) => v != null);
  if (!losses.length) return html`<span class="quiet">–</span>`;
  const [first, last] = [losses[0], losses.at(-1)];
  return html`<div class="losses">
    <${Spark} values=${losses} label=${`Training loss from ${measure(first)} to ${measure(last)}`} />
    <span class="small">${measure(first)} → ${measure(last)}</span>
  </div>`;
}

function Compared({ chosen, clear }) {
  if (!chosen.length) return null;
  return html`<div class="notice info" role="status">
    <div class="heading">
      <span>${chosen.length} of at most ${MOST_COMPARED} jobs chosen.</span>
      <div class="actions">
        ${chosen.length > 1 && html`<${LinkButton} href=${href("/compare", { id: chosen })} main>Compare</${LinkButton}>`}
        <button type="button" onClick=${clear}>Choose none</button>
      </div>
    </div>
  </div>`;
}

function Nothing({ filtered, writes }) {
  if (filtered) {
    return html`<${Empty} title="No job fits">
      <${LinkButton} href="#/jobs">Show all jobs</${LinkButton}>
    </${Empty}>`;
  }
  return html`<${Empty} title="No jobs yet">
    <p>${writes
      ? "Bring a file of conversations, prompts or texts, choose a base model, and start."
      : "This key can read and not create. Jobs of its project will appear here."}</p>
    ${writes && html`<${LinkButton} href="#/new" main>New fine-tune</${LinkButton}>`}
  </${Empty}>`;
}
