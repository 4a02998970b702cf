// @ts-check
/** `#/admin/queue`: what runs and what waits, over all projects. */
import { html } from "../../vendor/preact.js";
import { useLoaded } from "../../loaded.js";
import { Badge } from "../../parts/badge.js";
import { Await, Empty, Facts, FaultNotice, Meter, Page, Section, Table, Time } from "../../parts/basics.js";
import { Pager } from "../../parts/pager.js";
import { href } from "../../router.js";
import { bytes, count, plural } from "../../words.js";
import { JobLink } from "./job_link.js";

const EVERY_MS = 3_000;
const GIB = 2 ** 30;
// What GPUs have, and the share of it that a worker fills.
const CARDS_GIB = [8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 192, 288];
const FILLED = 0.9;

/** @param {import("../../router.js").PageProps} props */
export default function Queue({ query }) {
  const after = query.get("after");
  const waiting = useLoaded("/v1/admin/queue", { limit: 50, after }, { every: EVERY_MS });
  return html`
    <${Page} title="Queue">
      <${Await} loaded=${waiting}>
        ${(/** @type {any} */ found) => html`
          <${FaultNotice} fault=${waiting.fault} />
          <${Running} />
          <${Section} title="Waiting, in the order in which they are claimed">
            ${found.data.length
              ? html`<${Waiting} entries=${found.data} />`
              : html`<${Empty} title="Nothing waits"><p>A new job starts as soon as a worker is free.</p></${Empty}>`}
            <${Pager} page=${found} path="/admin/queue" query=${{ after }} />
          </${Section}>
          ${found.data.length > 0 && html`<${Demand} entries=${found.data} whole=${!after && !found.has_more} />`}
        `}
      </${Await}>
    </${Page}>
  `;
}

function Running() {
  const running = useLoaded("/v1/admin/queue", { status: "running", limit: 100 }, { every: EVERY_MS });
  return html`<${Section} title="Running">
    <${Await} loaded=${running}>
      ${(/** @type {any} */ found) =>
        found.data.length
          ? html`<${Table} label="Running" rows=${found.data} columns=${[
              { name: "Job", cell: (one) => html`<${JobLink} id=${one.id} entry=${one} />` },
              { name: "Base", cell: (one) => one.base_model },
              { name: "Worker", cell: (one) => html`<a href="#/admin/workers"><bdi>${one.worker}</bdi></a>` },
              { name: "Progress", cell: (one) => html`<${Progress} of=${one} />` },
              { name: "Started", cell: (one) => html`<${Time} at=${one.started_at} />` },
              { name: "Expected end", cell: (one) => html`<${Time} at=${one.estimated_finish} />` },
            ]} />
            ${found.has_more && html`<p class="quiet">and more, which started later.</p>`}`
          : html`<p class="quiet">Nothing runs.</p>`}
    </${Await}>
  </${Section}>`;
}

const Progress = ({ of: entry }) =>
  entry.progress?.total_steps
    ? html`<div>step ${count(entry.progress.step)} of ${count(entry.progress.total_steps)}
        <${Meter} value=${entry.progress.step} most=${entry.progress.total_steps} label="Progress" /></div>`
    : entry.export_of
      ? "being exported"
      : "being prepared";

const WAITS = {
  retry_pause: ["pause before the next attempt", "…", "info"],
  storage: ["storage is away", "!", "bad"],
  base_model_broken: ["base model is broken", "!", "bad"],
  no_worker: ["no worker", "!", "bad"],
  no_worker_fits: ["no worker fits", "!", "warn"],
  pool_starting: ["a worker is started", "…", "info"],
  own_quota: ["its project's limit", "‖", "warn"],
  jobs_ahead: ["its turn", "◷", "quiet"],
  starting: ["starts now", "▶", "good"],
};

const Waiting = ({ entries }) => html`<${Table} label="Waiting" rows=${entries} columns=${[
  { name: "Place", number: true, cell: (one) => count(one.queue?.position) },
  { name: "Job", cell: (one) => html`<${JobLink} id=${one.id} entry=${one} />` },
  { name: "Base", cell: (one) => one.base_model },
  {
    name: "Waits for",
    cell: (one) => {
      const [word, sign, tone] = WAITS[one.queue.waits_for] ?? [one.queue.waits_for, "•", "quiet"];
      return html`<div><${Badge} word=${word} sign=${sign} tone=${tone} />
        <p class="small"><bdi>${one.queue.reason}</bdi></p></div>`;
    },
  },
  { name: "Memory on a GPU", number: true, cell: (one) => bytes(one.memory_bytes?.bf16) },
  { name: "Expected start", cell: (one) => html`<${Start} range=${one.queue.expected_start} />` },
  { name: "Created", cell: (one) => html`<${Time} at=${one.created_at} />` },
]} />`;

/** @param {{range: [number, number] | null}} props */
function Start({ range }) {
  if (!range) return "not known";
  const [least, most] = range;
  return most - least < 60
    ? html`<${Time} at=${least} />`
    : html`<span><${Time} at=${least} /> to <${Time} at=${most} /></span>`;
}

/** How many of these jobs need which GPU at least. */
function Demand({ entries, whole }) {
  const cards = new Map();
  let unknown = 0;
  for (const entry of entries) {
    const needed = entry.memory_bytes?.bf16;
    const card = needed && CARDS_GIB.find((gib) => needed <= gib * GIB * FILLED);
    if (!needed) unknown += 1;
    else cards.set(card ?? Infinity, (cards.get(card ?? Infinity) ?? 0) + 1);
  }
  const name = (/** @type {number} */ gib) => (gib === Infinity ? "Larger than any GPU" : `GPU with ${gib} GiB`);
  const pairs = [...cards].sort(([a], [b]) => a - b).map(([gib, jobs]) => [name(gib), plural(jobs, "job")]);
  return html`<${Section} title="Smallest GPU that would do">
    <p class="quiet">Of ${whole ? "all waiting jobs" : "the waiting jobs on this page"}. A larger one
    does, too; <a href=${href("/admin/workers")}>the workers</a> say what there is.</p>
    <${Facts} pairs=${unknown ? [...pairs, ["Not known", plural(unknown, "job")]] : pairs} />
  </${Section}>`;
}
