// @ts-check
/** A project's API keys, or those of a person. */
import { html, useState } from "../../vendor/preact.js";
import { post, remove } from "../../api.js";
import { useAction, useLoaded } from "../../loaded.js";
import { Badge } from "../../parts/badge.js";
import { AskFirst, Await, Empty, FaultNotice, Field, Section, Table, Time } from "../../parts/basics.js";
import { Secret } from "../../parts/secret.js";
import { NewKey } from "./new_key.js";

const GRACES = [
  [0, "at once"],
  [3_600, "in an hour"],
  [86_400, "in a day"],
  [604_800, "in a week"],
];

/** @param {{path: string, scopes?: string[]}} props `scopes`: those that a key may have; else all. */
export function Keys({ path, scopes }) {
  const keys = useLoaded(path, {}, { every: 10_000 });
  const [adding, setAdding] = useState(false);
  const [ended, setEnded] = useState(false);
  const [made, setMade] = useState(/** @type {any} */ (null));
  const acting = useAction(async (act) => {
    await act();
    keys.reload();
  });
  const show = (/** @type {any} */ key) => {
    setAdding(false);
    setMade(key);
    keys.reload();
  };
  const add =
    !adding && html`<button type="button" class="main" onClick=${() => setAdding(true)}>New key</button>`;
  return html`
    <${Section} title="Keys" actions=${add}>
      ${made &&
      html`<${Secret} title=${html`The key <bdi>${made.name ?? made.prefix}</bdi>`} label="API key"
        text=${made.key} done=${() => setMade(null)} />`}
      ${adding && html`<${NewKey} path=${path} scopes=${scopes} done=${show} leave=${() => setAdding(false)} />`}
      <${FaultNotice} fault=${acting.fault} />
      <${Await} loaded=${keys}>
        ${(/** @type {any} */ found) => {
          const live = found.data.filter((/** @type {any} */ key) => !isOver(key));
          const shown = ended ? found.data : live;
          return html`
            ${shown.length
              ? html`<${List} keys=${shown} path=${path} acting=${acting} show=${show} />`
              : html`<${Empty} title="No live keys"><p>Programs need one.</p></${Empty}>`}
            ${live.length < found.data.length &&
            html`<label class="check"><input type="checkbox" checked=${ended}
              onChange=${(event) => setEnded(event.target.checked)} />
              Show those that have ended, too (${found.data.length - live.length})</label>`}
          `;
        }}
      </${Await}>
    </${Section}>
  `;
}

const isOver = (/** @type {any} */ key) =>
  key.revoked_at !== null || (key.expires_at !== null && key.expires_at * 1000 <= Date.now());

const List = ({ keys, path, acting, show }) => html`<${Table} label="Keys" rows=${keys} columns=${[
  {
    name: "Key",
    cell: (key) => html`<div><bdi>${key.name ?? "without a name"}</bdi><br />
      <code class="small">${key.prefix}…</code></div>`,
  },
  { name: "May", cell: (key) => key.scopes.join(", ") },
  { name: "State", cell: (key) => html`<${Standing} of=${key} />` },
  { name: "Created", cell: (key) => html`<${Time} at=${key.created_at} />` },
  {
    name: "Last used",
    cell: (key) => (key.last_used_at ? html`<${Time} at=${key.last_used_at} />` : "never"),
  },
  {
    name: "Change",
    hidden: true,
    cell: (key) =>
      !isOver(key) && html`<${Changes} of=${key} path=${path} acting=${acting} show=${show} />`,
  },
]} />`;

function Standing({ of: key }) {
  if (key.revoked_at) return html`<span><${Badge} word="revoked" sign="✕" /> <${Time} at=${key.revoked_at} /></span>`;
  if (isOver(key)) return html`<span><${Badge} word="expired" sign="✕" /> <${Time} at=${key.expires_at} /></span>`;
  return html`<span><${Badge} word="live" sign="✓" tone="good" />
    ${key.expires_at ? html` ends <${Time} at=${key.expires_at} />` : ""}</span>`;
}

function Changes({ of: key, path, acting, show }) {
  const [grace, setGrace] = useState(0);
  const own = `${path}/${encodeURIComponent(key.id)}`;
  const name = html`<bdi>${key.name ?? key.prefix}</bdi>`;
  const rotate = () => acting.run(async () => show(await post(`${own}/rotate`, { grace_seconds: grace })));
  const question = html`<div>
    <p>Make a new key in the place of ${name}, with the same scopes?</p>
    <${Field} label="The old one ends" name=${`grace-${key.id}`}>
      ${(/** @type {any} */ given) => html`<select ...${given} value=${grace}
        onInput=${(/** @type {any} */ event) => setGrace(Number(event.target.value))}>
        ${GRACES.map(([seconds, word]) => html`<option key=${seconds} value=${seconds}>${word}</option>`)}
      </select>`}
    </${Field}>
  </div>`;
  return html`<div class="actions">
    <${AskFirst} label="Rotate" danger=${false} question=${question} act=${rotate} busy=${acting.busy} />
    <${AskFirst} label="Revoke" busy=${acting.busy} act=${() => acting.run(() => remove(own))}
      question=${html`Revoke ${name}? Whoever uses it is refused at once, and so are its sessions here.`} />
  </div>`;
}
