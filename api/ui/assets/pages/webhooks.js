// @ts-check
/** `#/webhooks`: where the service tells of the project's jobs; `#/webhooks/ID`: one of them. */
import { html, useState } from "../vendor/preact.js";
import { useLoaded } from "../loaded.js";
import { Await, Empty, Page, Section, Table, Time } from "../parts/basics.js";
import { Pager } from "../parts/pager.js";
import { href } from "../router.js";
import { useMay } from "../session.js";
import { Endpoint, Enabled } from "./webhooks/endpoint.js";
import { EndpointForm, NewSecret } from "./webhooks/form.js";

/** @param {import("../router.js").PageProps} props */
export default function Webhooks({ params, query }) {
  return params.id
    ? html`<${Endpoint} id=${params.id} after=${query.get("after")} />`
    : html`<${All} after=${query.get("after")} />`;
}

function All({ after }) {
  const writes = useMay("write");
  const endpoints = useLoaded("/v1/webhook_endpoints", { after }, { every: 10_000 });
  const types = useLoaded(writes ? "/v1/webhook_event_types" : null);
  const [adding, setAdding] = useState(false);
  const [made, setMade] = useState(/** @type {any} */ (null));

  const done = (/** @type {any} */ endpoint) => {
    setAdding(false);
    setMade(endpoint);
    endpoints.reload();
  };
  const add =
    writes &&
    !adding &&
    html`<button type="button" class="main" onClick=${() => setAdding(true)}>New endpoint</button>`;
  return html`
    <${Page} title="Webhooks" actions=${add}>
      ${made && html`<${NewSecret} endpoint=${made} done=${() => setMade(null)} />`}
      ${adding &&
      html`<${Section} title="New endpoint">
        <${Await} loaded=${types}>
          ${(/** @type {any} */ found) => html`<${EndpointForm} types=${found.data}
            path="/v1/webhook_endpoints" label="Create" done=${done} leave=${() => setAdding(false)} />`}
        </${Await}>
      </${Section}>`}
      <${Await} loaded=${endpoints}>
        ${(/** @type {any} */ found) =>
          found.data.length
            ? html`<${Section} title="Endpoints"><${List} endpoints=${found.data} />
                <${Pager} page=${found} path="/webhooks" query=${{ after }} /></${Section}>`
            : html`<${Empty} title="No endpoints yet">
                <p>An endpoint is an address of yours that the service sends signed messages to when a job
                succeeds, fails or is cancelled.</p>${add}
              </${Empty}>`}
      </${Await}>
    </${Page}>
  `;
}

const List = ({ endpoints }) => html`<${Table} label="Endpoints" rows=${endpoints} columns=${[
  {
    name: "Name",
    cell: (one) => html`<a href=${href(`/webhooks/${one.id}`)}><bdi>${one.name}</bdi></a>`,
  },
  { name: "Address", cell: (one) => html`<bdi>${one.url}</bdi>` },
  { name: "State", cell: (one) => html`<${Enabled} endpoint=${one} />` },
  { name: "Told of", cell: (one) => one.event_types.join(", ") },
  { name: "Changed", cell: (one) => html`<${Time} at=${one.updated_at} />` },
]} />`;
