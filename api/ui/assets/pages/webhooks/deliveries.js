// @ts-check
/** How the messages to an endpoint fared. */
import { html } from "../../vendor/preact.js";
import { post } from "../../api.js";
import { useAction, useLoaded } from "../../loaded.js";
import { Badge } from "../../parts/badge.js";
import { Await, FaultNotice, Section, Table, Time } from "../../parts/basics.js";
import { Pager } from "../../parts/pager.js";
import { href } from "../../router.js";
import { useMay } from "../../session.js";
import { count } from "../../words.js";

const STATES = {
  pending: ["on its way", "…", "info"],
  delivered: ["delivered", "✓", "good"],
  failed: ["given up", "✕", "bad"],
};

/** @param {{id: string, path: string, after: string | null}} props */
export function Deliveries({ id, path, after }) {
  const writes = useMay("write");
  const deliveries = useLoaded(`${path}/deliveries`, { after }, { every: 3_000 });
  const replaying = useAction(async (delivery) => {
    await post(`${path}/deliveries/${encodeURIComponent(delivery)}/replay`);
    deliveries.reload();
  });
  const columns = [
    { name: "Event", cell: (one) => html`<${Sent} event=${one.event} />` },
    {
      name: "State",
      cell: (one) => {
        const [word, sign, tone] = STATES[one.status] ?? [one.status, "•", "quiet"];
        return html`<${Badge} word=${word} sign=${sign} tone=${tone} />`;
      },
    },
    { name: "Attempts", number: true, cell: (one) => count(one.attempts) },
    { name: "Last answer", cell: (one) => html`<bdi>${answerOf(one)}</bdi>` },
    { name: "Created", cell: (one) => html`<${Time} at=${one.created_at} />` },
    {
      name: "Next attempt",
      cell: (one) => (one.next_attempt_at ? html`<${Time} at=${one.next_attempt_at} />` : "–"),
    },
  ];
  const replay = {
    name: "Change",
    hidden: true,
    cell: (one) => html`<button type="button" class="small" disabled=${replaying.busy}
      onClick=${() => replaying.run(one.id)}>Send again</button>`,
  };
  return html`
    <${Section} title="Deliveries">
      <${FaultNotice} fault=${replaying.fault} />
      <${Await} loaded=${deliveries}>
        ${(/** @type {any} */ found) =>
          found.data.length
            ? html`<${Table} label="Deliveries" rows=${found.data}
                  columns=${writes ? [...columns, replay] : columns} />
                <${Pager} page=${found} path=${`/webhooks/${id}`} query=${{ after }} />`
            : html`<p class="quiet">Nothing was sent yet. The next job that ends is told of here.</p>`}
      </${Await}>
    </${Section}>
  `;
}

const answerOf = (one) =>
  one.error ?? (one.status_code ? `status ${one.status_code}` : one.attempts ? "none" : "–");

/** What is sent, and the job that it tells of. */
const Sent = ({ event }) => html`
  <div>
    ${event.type}
    ${event.data?.id?.startsWith("ftjob-") &&
    html`<br /><a class="small" href=${href(`/jobs/${event.data.id}`)}>${event.data.id}</a>`}
    <details class="small"><summary>Message</summary>
      <pre tabindex="0" role="region" aria-label="Message">${JSON.stringify(event, null, 2)}</pre>
    </details>
  </div>
`;
