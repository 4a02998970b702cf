// @ts-check
import { html, useState } from "../../vendor/preact.js";
import { post } from "../../api.js";
import { useAction } from "../../loaded.js";
import { FaultNotice, Field } from "../../parts/basics.js";
import { at, elsewhere } from "../../parts/refusals.js";

const SCOPES = [
  ["read", "see everything of the project, and download it"],
  ["write", "create, change and delete"],
  ["admin", "run the service: all projects, keys, workers and base models"],
  ["worker", "claim jobs, and nothing else"],
  ["metrics", "read the metrics for Prometheus, and nothing else"],
];

/** @param {{path: string, scopes?: string[], done: (key: any) => void, leave: () => void}} props
 *   `scopes`: those that it may have, of somebody who makes a key of their own; else all. */
export function NewKey({ path, scopes: own, done, leave }) {
  const [name, setName] = useState("");
  const [days, setDays] = useState("");
  const [scopes, setScopes] = useState(["read", "write"].filter((scope) => own?.includes(scope) ?? true));
  const making = useAction(async () =>
    done(
      await post(path, {
        scopes,
        ...(name ? { name } : {}),
        ...(days ? { expires_days: Number(days) } : {}),
      }),
    ),
  );
  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    making.run();
  };
  const choose = (/** @type {string} */ scope, /** @type {boolean} */ wanted) =>
    setScopes(wanted ? [...scopes, scope] : scopes.filter((one) => one !== scope));
  const wrongScopes = at(making.fault, "scopes");
  return html`
    <form onSubmit=${send}>
      <${Field} label="Name" name="key-name" wrong=${at(making.fault, "name")} hint="For people, such as CI.">
        ${(given) => html`<input ...${given} maxlength="100" value=${name}
          onInput=${(event) => setName(event.target.value)} />`}
      </${Field}>
      <fieldset>
        <legend>It may</legend>
        ${SCOPES.filter(([scope]) => own?.includes(scope) ?? true).map(
          ([scope, meaning]) => html`<label class="check" key=${scope}>
            <input type="checkbox" checked=${scopes.includes(scope)}
              onChange=${(event) => choose(scope, event.target.checked)} />
            <span><strong>${scope}</strong>: ${meaning}</span>
          </label>`,
        )}
        ${wrongScopes && html`<p class="hint"><strong class="bad">${wrongScopes}</strong></p>`}
      </fieldset>
      <${Field} label="Days until it ends" name="days" wrong=${at(making.fault, "expires_days")}
        hint=${own ? "At most 90; empty: 30." : "Empty: it does not end by itself."}>
        ${(given) => html`<input ...${given} type="number" min="0" max=${own ? "90" : "3650"} step="any" value=${days}
          onInput=${(event) => setDays(event.target.value)} />`}
      </${Field}>
      <div class="actions">
        <button type="submit" class="main" disabled=${making.busy || !scopes.length}>Create key</button>
        <button type="button" onClick=${leave}>Leave it</button>
      </div>
      <${FaultNotice} fault=${elsewhere(making.fault, ["name", "scopes", "expires_days"])} />
    </form>
  `;
}
