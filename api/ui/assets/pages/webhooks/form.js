// @ts-check
/** An endpoint's name, address and events, of a new one or of one that is changed. */
import { html, useState } from "../../vendor/preact.js";
import { post } from "../../api.js";
import { useAction } from "../../loaded.js";
import { FaultNotice, Field } from "../../parts/basics.js";
import { at, elsewhere } from "../../parts/refusals.js";
import { Secret } from "../../parts/secret.js";

/**
 * @param {{types: string[], path: string, label: string, endpoint?: any,
 *   done: (endpoint: any) => void, leave: () => void}} props `endpoint`: the one that is changed.
 */
export function EndpointForm({ types, path, label, endpoint = null, done, leave }) {
  const [name, setName] = useState(endpoint?.name ?? "");
  const [url, setUrl] = useState(endpoint?.url ?? "");
  const [chosen, setChosen] = useState(/** @type {string[]} */ (endpoint?.event_types ?? types));
  const sending = useAction(async () => done(await post(path, { name, url, event_types: chosen })));

  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    sending.run();
  };
  const choose = (/** @type {string} */ type, /** @type {boolean} */ wanted) =>
    setChosen(types.filter((one) => (one === type ? wanted : chosen.includes(one))));
  const wrongTypes = at(sending.fault, "event_types");
  return html`
    <form onSubmit=${send}>
      <${Field} label="Name" name="name" wrong=${at(sending.fault, "name")}>
        ${(given) => html`<input ...${given} required maxlength="256" value=${name}
          onInput=${(event) => setName(event.target.value)} />`}
      </${Field}>
      <${Field} label="Address" name="url" wrong=${at(sending.fault, "url")}
        hint="https, at an address that the service can reach.">
        ${(given) => html`<input ...${given} type="url" required value=${url}
          placeholder="https://example.com/hooks/tunery" onInput=${(event) => setUrl(event.target.value)} />`}
      </${Field}>
      <fieldset>
        <legend>Events</legend>
        <div class="checks">
          ${types.map(
            (type) => html`<label class="check" key=${type}>
              <input type="checkbox" checked=${chosen.includes(type)}
                onChange=${(event) => choose(type, event.target.checked)} /> ${type}
            </label>`,
          )}
        </div>
        ${wrongTypes && html`<p class="hint"><strong class="bad">${wrongTypes}</strong></p>`}
      </fieldset>
      <div class="actions">
        <button type="submit" class="main" disabled=${sending.busy || !chosen.length}>${label}</button>
        <button type="button" onClick=${leave}>Leave it</button>
      </div>
      <${FaultNotice} fault=${elsewhere(sending.fault, ["name", "url", "event_types"])} />
    </form>
  `;
}

/** @param {{endpoint: any, done: () => void}} props `endpoint`: with its `signing_secret`. */
export const NewSecret = ({ endpoint, done }) => html`
  <${Secret} title=${html`The signing secret of <bdi>${endpoint.name}</bdi>`} label="Signing secret"
    text=${endpoint.signing_secret} done=${done}>
    <p>With it your program checks that a message is from this service, as Standard Webhooks has it; the
    OpenAI SDK does so with <code>client.webhooks.unwrap</code>.</p>
  </${Secret}>
`;
