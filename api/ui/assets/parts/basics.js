// @ts-check
/** What every page is made of. Text is always text: nothing here takes HTML. */
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { ago, exact } from "../words.js";

/** A page's heading, which also names the window; `actions` stand beside it. */
export function Page({ title, actions = null, trail = null, children }) {
  const heading = useRef(null);
  useEffect(() => {
    document.title = `${title} · Tunery`;
  }, [title]);
  return html`
    <div class="page">
      ${trail && html`<nav class="trail" aria-label="Where this is">${trail}</nav>`}
      <header class="heading">
        <h1 tabindex="-1" ref=${heading}>${title}</h1>
        <div class="actions">${actions}</div>
      </header>
      ${children}
    </div>
  `;
}

export const Section = ({ title, actions = null, children, id = undefined }) => html`
  <section class="card" aria-label=${title} id=${id}>
    <header class="heading"><h2>${title}</h2><div class="actions">${actions}</div></header>
    ${children}
  </section>
`;

/** What the service refused, in its own words. */
export const FaultNotice = ({ fault, reload = null }) =>
  fault &&
  html`
    <div class="notice bad" role="alert">
      <p>${fault.message}</p>
      <p class="small">
        ${fault.status ? `Status ${fault.status}` : "No answer"}${fault.code && `, ${fault.code}`}
        ${fault.requestId && html`, request <code>${fault.requestId}</code>`}
      </p>
      ${reload && html`<button type="button" onClick=${reload}>Try again</button>`}
    </div>
  `;

/** @param {{tone?: "info" | "good" | "warn" | "bad", children: any}} props */
export const Notice = ({ tone = "info", children }) =>
  html`<div class=${`notice ${tone}`} role="status">${children}</div>`;

/** What a page shows before its data are there, or instead of them. */
export function Await({ loaded, children }) {
  if (loaded.data !== null) return children(loaded.data);
  if (loaded.fault) return html`<${FaultNotice} fault=${loaded.fault} reload=${loaded.reload} />`;
  return html`<p class="quiet" role="status">Loading …</p>`;
}

export const Empty = ({ title, children }) =>
  html`<div class="empty"><p><strong>${title}</strong></p>${children}</div>`;

const STATUSES = {
  validating_files: ["checking files", "…", "quiet"],
  queued: ["queued", "◷", "quiet"],
  running: ["running", "▶", "info"],
  paused: ["paused", "‖", "warn"],
  succeeded: ["succeeded", "✓", "good"],
  failed: ["failed", "✕", "bad"],
  cancelled: ["cancelled", "⊘", "quiet"],
  uploaded: ["being checked", "…", "info"],
  processed: ["ready", "✓", "good"],
  error: ["has faults", "✕", "bad"],
  better: ["better", "▲", "good"],
  same: ["same", "=", "quiet"],
  worse: ["worse", "▼", "bad"],
  pending: ["pending", "…", "quiet"],
};

/** A state in word, sign and colour. */
export function Status({ of, word = null }) {
  const [text, sign, tone] = STATUSES[of] ?? [of, "•", "quiet"];
  return html`<span class=${`status ${tone}`}><span aria-hidden="true">${sign}</span> ${word ?? text}</span>`;
}

/** A moment, in the reader's zone; the exact one on hover. */
export function Time({ at }) {
  const [, setTick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setTick((n) => n + 1), 10_000);
    return () => clearInterval(timer);
  }, []);
  if (at == null) return html`<span>–</span>`;
  return html`<time datetime=${new Date(at * 1000).toISOString()} title=${exact(at)}>${ago(at)}</time>`;
}

/** @param {{value: number, most: number, label: string}} props */
export const Meter = ({ value, most, label }) =>
  html`<progress value=${value} max=${most || 1} aria-label=${label}></progress>`;

/**
 * A table; on a narrow screen each row becomes a card.
 * @param {{label: string, columns: {name: string, cell: (row: any) => any, number?: boolean,
 *   hidden?: boolean}[], rows: any[], id?: (row: any) => string}} props
 */
export const Table = ({ label, columns, rows, id = (row) => row.id }) => html`
  <table class="table" aria-label=${label}>
    <thead>
      <tr>${columns.map(
        (column) =>
          html`<th scope="col" class=${column.number ? "number" : ""}>
            ${column.hidden ? html`<span class="unseen">${column.name}</span>` : column.name}
          </th>`,
      )}</tr>
    </thead>
    <tbody>
      ${rows.map(
        (row) => html`<tr key=${id(row)}>
          ${columns.map(
            (column) =>
              html`<td data-name=${column.name} class=${column.number ? "number" : ""}>
                ${column.cell(row)}
              </td>`,
          )}
        </tr>`,
      )}
    </tbody>
  </table>
`;

/** Names and values. @param {{pairs: [string, any][]}} props Pairs whose value is null are left out. */
export const Facts = ({ pairs }) => html`
  <dl class="facts">
    ${pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}
  </dl>
`;

/** Text to be copied: a command, a program. */
export function Code({ text, label = "Code" }) {
  const [said, setSaid] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setSaid("Copied");
    } catch {
      setSaid("Select the text and copy it");
    }
    setTimeout(() => setSaid(""), 2_000);
  };
  return html`
    <div class="code">
      <pre tabindex="0" role="region" aria-label=${label}>${text}</pre>
      <button type="button" class="small" onClick=${copy}>Copy</button>
      <span role="status" class="quiet small">${said}</span>
    </div>
  `;
}

/** A link that looks like a button. */
export const LinkButton = ({ href, children, main = false }) =>
  html`<a class=${main ? "button main" : "button"} href=${href}>${children}</a>`;

/**
 * A button that asks first.
 * @param {{label: string, question: string, act: () => any, busy?: boolean, danger?: boolean}} props
 */
export function AskFirst({ label, question, act, busy = false, danger = true }) {
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const pressed = useRef(false);
  const done = (/** @type {Event} */ event) => {
    event.preventDefault();
    pressed.current = true;
    dialog.current?.close();
    act();
  };
  // It may go with what it removed, and the focus with it.
  useEffect(() => () => {
    const stays = () => document.activeElement !== document.body;
    const heading = () => /** @type {HTMLElement | null} */ (document.querySelector("main h1"));
    if (pressed.current) setTimeout(() => stays() || heading()?.focus({ preventScroll: true }));
  }, []);
  return html`
    <button type="button" class=${danger ? "danger" : ""} disabled=${busy}
      onClick=${() => dialog.current?.showModal()}>${label}</button>
    <dialog ref=${dialog} aria-label=${label}>
      <form method="dialog" onSubmit=${done}>
        <p>${question}</p>
        <div class="actions">
          <button type="button" onClick=${() => dialog.current?.close()}>Leave it</button>
          <button type="submit" class=${danger ? "danger" : "main"}>${label}</button>
        </div>
      </form>
    </dialog>
  `;
}

/**
 * A labelled field; `hint` says what it means, `wrong` what is the matter.
 * @param {{label: string, name: string, hint?: any, wrong?: string | null, children: any}} props
 *   `children`: called with the attributes that the input needs.
 */
export const Field = ({ label, name, hint = null, wrong = null, children }) => html`
  <div class="field">
    <label for=${name}>${label}</label>
    ${children({
      id: name,
      name,
      "aria-describedby": hint || wrong ? `${name}-hint` : undefined,
      "aria-invalid": wrong ? "true" : undefined,
    })}
    ${(hint || wrong) &&
    html`<p class="hint" id=${`${name}-hint`}>${wrong ? html`<strong class="bad">${wrong}</strong> ` : ""}${hint}</p>`}
  </div>
`;

/** Views of one thing: links, of which one is where the reader is. */
export const Tabs = ({ label, tabs, current }) => html`
  <nav class="tabs" aria-label=${label}>
    ${tabs.map(
      ([name, href]) =>
        html`<a href=${href} aria-current=${name === current ? "page" : undefined}>${name}</a>`,
    )}
  </nav>
`;
