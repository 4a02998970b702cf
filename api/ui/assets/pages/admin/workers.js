// @ts-check
/** `#/admin/workers`: the machines that train. */
import { html, useState } from "../../vendor/preact.js";
import { post, remove } from "../../api.js";
import { useAction, useLoaded } from "../../loaded.js";
import { Badge } from "../../parts/badge.js";
import { AskFirst, Await, Empty, FaultNotice, Page, Section, Table, Time } from "../../parts/basics.js";
import { bytes, plural } from "../../words.js";
import { AddWorker } from "./add_worker.js";
import { JobLink } from "./job_link.js";

const EVERY_MS = 3_000;

export default function Workers() {
  const workers = useLoaded("/v1/admin/workers", {}, { every: EVERY_MS });
  const [adding, setAdding] = useState(false);
  const add =
    workers.data &&
    !adding &&
    html`<button type="button" class="main" onClick=${() => setAdding(true)}>Add a worker</button>`;
  return html`
    <${Page} title="Workers" actions=${add}>
      ${adding && html`<${AddWorker} leave=${() => setAdding(false)} />`}
      <${Await} loaded=${workers}>
        ${(/** @type {any} */ found) =>
          found.data.length
            ? html`<${List} workers=${found.data} changed=${workers.reload} />`
            : html`<${Empty} title="No worker has shown itself yet">
                <p>One that was just started takes some seconds. Without any, jobs wait.</p>${add}
              </${Empty}>`}
      </${Await}>
    </${Page}>
  `;
}

function List({ workers, changed }) {
  const running = useLoaded("/v1/admin/queue", { status: "running", limit: 100 }, { every: EVERY_MS });
  const acting = useAction(async (act) => {
    await act();
    changed();
  });
  const jobs = new Map((running.data?.data ?? []).map((/** @type {any} */ job) => [job.id, job]));
  const free = workers.filter((one) => one.state === "active" && !one.job_id).length;
  const busy = workers.filter((one) => one.job_id && one.state !== "offline").length;
  return html`
    <${FaultNotice} fault=${acting.fault} />
    <${Section} title=${`${plural(workers.length, "worker")}: ${busy} busy, ${free} idle`}>
      <${Table} label="Workers" rows=${workers} columns=${[
        { name: "Worker", cell: (one) => html`<${Name} worker=${one} />` },
        { name: "State", cell: (one) => html`<${Standing} worker=${one} />` },
        { name: "Job", cell: (one) => (one.job_id ? html`<${JobLink} id=${one.job_id} entry=${jobs.get(one.job_id)} />` : "–") },
        { name: "Device", cell: (one) => html`<div><bdi>${one.device ?? "not reported"}</bdi><br />
            ${bytes(one.memory_bytes)}<br /><span class="quiet small">pool ${one.pool}</span></div>` },
        { name: "Last heard", cell: (one) => html`<${Time} at=${one.last_seen_at} />` },
        { name: "Base models", cell: (one) => html`<${Bases} worker=${one} />` },
        { name: "Change", hidden: true, cell: (one) => html`<${Changes} worker=${one} acting=${acting} />` },
      ]} />
    </${Section}>
  `;
}

const Name = ({ worker }) => html`<div>
  <bdi><strong>${worker.name}</strong></bdi><br />
  <span class="quiet small">${worker.id}<br />
  <bdi>${worker.build ? `version ${worker.build}` : "version not reported"}</bdi>, protocol ${worker.protocol}</span>
</div>`;

/** Its state, and why. */
function Standing({ worker }) {
  const failed = worker.failures > 0 && plural(worker.failures, "attempt");
  if (worker.state === "offline") {
    return html`<div><${Badge} word="offline" sign="✕" tone="bad" />
      <p class="small">It ended, or was silent for a minute.</p></div>`;
  }
  if (worker.state === "quarantined") {
    return html`<div><${Badge} word="quarantined" sign="!" tone="bad" />
      <p class="small why">Its machine failed ${failed || "attempts"} in a row, each on another job. It is
      given no jobs. That ends <${Time} at=${worker.quarantined_until} />, or when you resume it.</p></div>`;
  }
  if (worker.state === "draining") {
    return html`<div><${Badge} word="draining" sign="‖" tone="warn" />
      <p class="small">${worker.job_id ? "It gives its job back with a checkpoint." : "It is given no jobs."}</p></div>`;
  }
  return html`<div>
    ${worker.job_id
      ? html`<${Badge} word="busy" sign="▶" tone="info" />`
      : html`<${Badge} word="idle" sign="✓" tone="good" />`}
    ${failed && html`<p class="small">Its machine failed ${failed} since its last success.</p>`}
  </div>`;
}

/** Those that it has fetched, and those that it cannot load. */
function Bases({ worker }) {
  const lacks = Object.entries(worker.lacks);
  if (!worker.holds.length && !lacks.length) return "none fetched";
  return html`<ul class="names">
    ${worker.holds.map((/** @type {string} */ id) => html`<li key=${id}><bdi>${id}</bdi></li>`)}
    ${lacks.map(
      ([id, source]) => html`<li key=${id} class="bad"><bdi>${id}</bdi> cannot be loaded from
        <bdi> ${source}</bdi></li>`,
    )}
  </ul>`;
}

function Changes({ worker, acting }) {
  const path = `/v1/admin/workers/${encodeURIComponent(worker.id)}`;
  const resumable = worker.state === "draining" || worker.state === "quarantined";
  return html`<div class="actions">
    ${resumable
      ? html`<button type="button" disabled=${acting.busy}
          onClick=${() => acting.run(() => post(`${path}/resume`))}>Resume</button>`
      : worker.state !== "offline" &&
        html`<${AskFirst} label="Drain" danger=${false} busy=${acting.busy}
          question=${html`Give <bdi>${worker.name}</bdi> no more jobs? One that it runs is given back with a checkpoint.`}
          act=${() => acting.run(() => post(`${path}/drain`))} />`}
    ${!worker.job_id &&
    html`<${AskFirst} label="Remove" busy=${acting.busy}
      question=${html`Forget <bdi>${worker.name}</bdi>? One that still runs comes back with its next heartbeat.`}
      act=${() => acting.run(() => remove(path))} />`}
  </div>`;
}
