// @ts-check
/** One endpoint, what is done with it, and its deliveries. */
import { html, useState } from "../../vendor/preact.js";
import { post, remove } from "../../api.js";
import { useAction, useLoaded } from "../../loaded.js";
import { Badge } from "../../parts/badge.js";
import { AskFirst, Await, Facts, FaultNotice, Field, Notice, Page, Section, Time } from "../../parts/basics.js";
import { go } from "../../router.js";
import { useMay } from "../../session.js";
import { Deliveries } from "./deliveries.js";
import { EndpointForm, NewSecret } from "./form.js";

const trail = html`<a href="#/webhooks">Webhooks</a>`;

export const Enabled = ({ endpoint }) =>
  endpoint.tunery.enabled
    ? html`<${Badge} word="enabled" sign="✓" tone="good" />`
    : html`<${Badge} word="disabled" sign="⊘" tone="warn" />`;

/** @param {{id: string, after: string | null}} props */
export function Endpoint({ id, after }) {
  const writes = useMay("write");
  const path = `/v1/webhook_endpoints/${encodeURIComponent(id)}`;
  const endpoint = useLoaded(path);
  if (endpoint.data === null) {
    return html`<${Page} title="Webhook endpoint" trail=${trail}><${Await} loaded=${endpoint} /></${Page}>`;
  }
  const { name, url, event_types: types, tunery, ...facts } = endpoint.data;
  return html`
    <${Page} title=${name} trail=${trail}>
      ${!tunery.enabled &&
      html`<${Notice} tone="warn">
        <p>Nothing is sent to it since <${Time} at=${tunery.disabled_at} />.
        <bdi> ${tunery.disabled_because}</bdi></p>
      </${Notice}>`}
      <${Section} title="Endpoint" actions=${html`<${Enabled} endpoint=${endpoint.data} />`}>
        <p><code><bdi>${url}</bdi></code></p>
        <${Facts} pairs=${[
          ["Told of", html`<ul class="names">${types.map((type) => html`<li key=${type}>${type}</li>`)}</ul>`],
          ["Signing secret", html`<code>${facts.signing_secret_hint}</code>`],
          ["Created", html`<${Time} at=${facts.created_at} />`],
          ["Changed", html`<${Time} at=${facts.updated_at} />`],
        ]} />
        ${writes && html`<${Changes} endpoint=${endpoint.data} path=${path} changed=${endpoint.reload} />`}
      </${Section}>
      ${writes && html`<${Test} path=${path} types=${types} />`}
      <${Deliveries} id=${id} path=${path} after=${after} />
    </${Page}>
  `;
}

function Changes({ endpoint, path, changed }) {
  const [changing, setChanging] = useState(false);
  const [keepOld, setKeepOld] = useState(true);
  const [made, setMade] = useState(/** @type {any} */ (null));
  const types = useLoaded(changing ? "/v1/webhook_event_types" : null);
  const acting = useAction(async (act) => {
    await act();
    changed();
  });
  const enable = () => acting.run(() => post(path, { enabled: !endpoint.tunery.enabled }));
  const rotate = () =>
    acting.run(async () =>
      setMade(await post(`${path}/rotate_secret`, { keep_old_secret_active_for_24_hours: keepOld })),
    );
  const drop = () =>
    acting.run(async () => {
      await remove(path);
      go("/webhooks", {}, { replace: true });
    });
  const done = () => {
    setChanging(false);
    changed();
  };
  return html`
    ${made && html`<${NewSecret} endpoint=${made} done=${() => setMade(null)} />`}
    ${changing
      ? html`<${Await} loaded=${types}>
          ${(/** @type {any} */ found) => html`<${EndpointForm} types=${found.data} path=${path} label="Save"
            endpoint=${endpoint} done=${done} leave=${() => setChanging(false)} />`}
        </${Await}>`
      : html`<div class="actions">
          <button type="button" onClick=${() => setChanging(true)}>Change</button>
          <button type="button" disabled=${acting.busy} onClick=${enable}>
            ${endpoint.tunery.enabled ? "Disable" : "Enable"}
          </button>
          <${AskFirst} label="New secret" danger=${false} act=${rotate} busy=${acting.busy}
            question=${html`Messages are signed with a new secret from now on.<br />
              <label class="check"><input type="checkbox" checked=${keepOld}
                onChange=${(event) => setKeepOld(event.target.checked)} />
                The old one signs beside it for 24 hours</label>`} />
          <${AskFirst} label="Delete" act=${drop} busy=${acting.busy}
            question=${html`Delete <bdi>${endpoint.name}</bdi> with its deliveries?`} />
        </div>`}
    <${FaultNotice} fault=${acting.fault} />
  `;
}

function Test({ path, types }) {
  const [type, setType] = useState(types[0]);
  const [answer, setAnswer] = useState(/** @type {any} */ (null));
  const testing = useAction(async () => {
    setAnswer(null);
    setAnswer(await post(`${path}/test`, { event_type: type }));
  });
  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    testing.run();
  };
  return html`
    <${Section} title="Test">
      <form class="row sample" onSubmit=${send}>
        <${Field} label="Event" name="event-type">
          ${(given) => html`<select ...${given} value=${type} onInput=${(event) => setType(event.target.value)}>
            ${types.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}
          </select>`}
        </${Field}>
        <button type="submit" disabled=${testing.busy}>${testing.busy ? "Sending …" : "Send a sample"}</button>
      </form>
      ${answer &&
      html`<${Notice} tone=${answer.status_code < 300 ? "good" : "warn"}>
        <p>The endpoint answered with status ${answer.status_code}.</p>
      </${Notice}>`}
      <${FaultNotice} fault=${testing.fault} />
    </${Section}>
  `;
}
