// @ts-check
/** What happened to a job, the newest first, as it happens. */
import { html, useState } from "../../vendor/preact.js";
import { useAction } from "../../loaded.js";
import { FaultNotice, Field, Section, Time } from "../../parts/basics.js";
import { count, plural } from "../../words.js";

const LEVELS = { warn: ["▲", "Warning:"], error: ["✕", "Error:"] };
const SHOWN = 50;

export function Events({ live }) {
  const [level, setLevel] = useState("");
  const [search, setSearch] = useState("");
  const [most, setMost] = useState(SHOWN);
  const asking = useAction(live.older);
  const wanted = search.trim().toLowerCase();
  const found = live.messages.filter(
    (/** @type {any} */ event) =>
      (!level || event.level === level) && (!wanted || event.message.toLowerCase().includes(wanted)),
  );
  const all = plural(live.messages.length, "event");
  const older = async () => {
    if (live.more && found.length <= most) await asking.run();
    setMost(most + 4 * SHOWN);
  };
  return html`
    <${Section} title="Events">
      <form class="row" role="search" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
        <${Field} label="Search events" name="events-search">
          ${(/** @type {any} */ given) => html`<input ...${given} type="search" value=${search}
            onInput=${(/** @type {any} */ event) => setSearch(event.target.value)} />`}
        </${Field}>
        <${Field} label="Level" name="events-level">
          ${(/** @type {any} */ given) => html`<select ...${given} value=${level}
            onChange=${(/** @type {any} */ event) => setLevel(event.target.value)}>
            <option value="">all</option>
            <option value="info">information</option>
            <option value="warn">warnings</option>
            <option value="error">errors</option>
          </select>`}
        </${Field}>
      </form>
      <div class="scroll" tabindex="0" role="region" aria-label="Events of the job">
        <ul class="events">
          ${found.slice(0, most).map(
            (/** @type {any} */ event) => html`<li key=${event.id} class=${event.level}>
              <span class="small quiet when"><${Time} at=${event.created_at} /></span>
              <span><${Level} of=${event.level} /> <bdi>${event.message}</bdi></span>
            </li>`,
          )}
        </ul>
        ${!found.length && html`<p class="quiet">${live.messages.length ? `None of the ${all} here is like that.` : "Nothing has happened yet."}</p>`}
      </div>
      <p class="small quiet">${count(Math.min(found.length, most))} of ${all}${live.more && ", and older ones"}.
        The steps are under Charts.</p>
      ${(live.more || found.length > most) &&
      html`<button type="button" class="small" disabled=${asking.busy} onClick=${older}>Show older</button>`}
      <${FaultNotice} fault=${asking.fault} />
    </${Section}>
  `;
}

/** @param {{of: string}} props */
function Level({ of }) {
  const [sign, word] = LEVELS[/** @type {keyof typeof LEVELS} */ (of)] ?? [];
  return sign ? html`<strong><span aria-hidden="true">${sign}</span> ${word}</strong>` : null;
}
