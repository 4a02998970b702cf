// @ts-check
/** `#/usage`: for how long jobs held devices in this month and the last, and what that cost. */
import { html } from "../vendor/preact.js";
import { address } from "../api.js";
import { useLoaded } from "../loaded.js";
import { Await, Empty, Notice, Page, Section, Table } from "../parts/basics.js";
import { useMay } from "../session.js";
import { count, money } from "../words.js";

const MOST_DAYS = 31;

/** A day's results, summed up by project and by who created the jobs.
 * @param {any[]} buckets */
function summed(buckets) {
  const groups = new Map();
  for (const one of buckets.flatMap((bucket) => bucket.results)) {
    const whose = one.api_key ?? one.api_key_id ?? one.user ?? one.user_id;
    const currency = one.amount?.currency ?? null;
    const id = [one.project_id, one.api_key_id ?? one.user_id, currency].join(" ");
    const sum = groups.get(id) ?? {
      id, project: one.project ?? one.project_id, whose, currency,
      seconds: 0, attempts: 0, tokens: 0, answers: 0, cost: 0,
    };
    sum.seconds += one.device_seconds;
    sum.attempts += one.num_attempts;
    sum.tokens += one.trained_tokens;
    sum.answers += one.num_model_requests;
    sum.cost += one.amount?.value ?? 0;
    groups.set(id, sum);
  }
  return [...groups.values()].sort((one, other) => other.seconds - one.seconds);
}

const hours = (/** @type {number} */ seconds) => (seconds / 3600).toFixed(2);
const some = (/** @type {number} */ value) => (value ? count(value) : "–");

/** @param {{title: string, path: string, since: Date, until: Date | null, everybody: boolean}} props */
function Month({ title, path, since, until, everybody }) {
  const asked = {
    start_time: since.getTime() / 1000,
    end_time: until && until.getTime() / 1000,
    group_by: ["project_id", "api_key_id", "user_id"],
  };
  const used = useLoaded(path, { ...asked, limit: MOST_DAYS }, until ? {} : { every: 60_000 });
  const csv = html`<a class="button" download href=${address(path, { ...asked, format: "csv" })}>Download CSV</a>`;
  return html`<${Section} title=${title} actions=${csv}>
    <${Await} loaded=${used}>
      ${(/** @type {any} */ found) => {
        const rows = summed(found.data);
        if (!rows.length) return html`<${Empty} title="Nothing was used"><p>No device, and no answer of a model.</p></${Empty}>`;
        const costs = new Map();
        for (const row of rows) if (row.currency) costs.set(row.currency, (costs.get(row.currency) ?? 0) + row.cost);
        return html`
          ${!until && found.warnings.map((/** @type {string} */ said) => html`<${Notice} tone="warn" key=${said}>${said}</${Notice}>`)}
          <p><strong>${hours(rows.reduce((sum, row) => sum + row.seconds, 0))} device hours</strong>${
            [...costs].map(([currency, cost]) => html`, <strong>${money(cost, currency)}</strong>`)}</p>
          <${Table} label=${title} rows=${rows} columns=${[
            ...(everybody ? [{ name: "Project", cell: (/** @type {any} */ one) => html`<bdi>${one.project}</bdi>` }] : []),
            { name: "Key or person", cell: (one) => (one.whose ? html`<bdi>${one.whose}</bdi>` : "–") },
            { name: "Device hours", number: true, cell: (one) => hours(one.seconds) },
            { name: "Cost", number: true, cell: (one) => (one.currency ? money(one.cost, one.currency) : "–") },
            { name: "Attempts", number: true, cell: (one) => some(one.attempts) },
            { name: "Trained tokens", number: true, cell: (one) => some(one.tokens) },
            { name: "Answers", number: true, cell: (one) => some(one.answers) },
          ]} />`;
      }}
    </${Await}>
  </${Section}>`;
}

export default function Usage() {
  const everybody = useMay("admin");
  const now = new Date();
  const month = (/** @type {number} */ back) => new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() - back));
  const path = everybody ? "/v1/admin/usage" : "/v1/usage";
  return html`<${Page} title="Usage">
    <p>From each claim of a job or export to its end, whatever came of it. Months are UTC's${
      everybody ? "." : ", and this is your project's."}</p>
    <${Month} title="This month" path=${path} since=${month(0)} until=${null} everybody=${everybody} />
    <${Month} title="Last month" path=${path} since=${month(1)} until=${month(0)} everybody=${everybody} />
  </${Page}>`;
}
