// @ts-check
/** The engine's log of an attempt, as it grows. */
import { html, useEffect, useRef, useState } from "../../vendor/preact.js";
import { address, ask, jobPath, lines, whileSeen } from "../../api.js";
import { Await, Empty, FaultNotice, Field } from "../../parts/basics.js";
import { go } from "../../router.js";
import { count, plural } from "../../words.js";
import { useAttempts } from "./overview.js";
import { ENDED } from "./state.js";

const MOST_LINES = 5_000;
const PAINT_MS = 250;
const PAUSE_MS = 1_000;
// What steers a terminal (ECMA-48): colours and the like.
const STEERING = /\u001b(\[[0-9;?]*[ -/]*[@-~]|\][^\u0007]*\u0007|.)/g;

export function Log({ job, query }) {
  const attempts = useAttempts(job);
  return html`<${Await} loaded=${attempts}>
    ${(/** @type {any} */ found) => {
      const asked = Number(query.get("attempt"));
      const attempt = found.data.find((/** @type {any} */ each) => each.number === asked) ?? found.data[0];
      return attempt
        ? html`<${Attempt} key=${attempt.number} job=${job} attempt=${attempt} all=${found.data} />`
        : html`<${Empty} title="No log"><p>${ENDED.has(job.status)
            ? "The job ended before a worker had claimed it."
            : "It begins when a worker has claimed the job."}</p></${Empty}>`;
    }}
  </${Await}>`;
}

function Attempt({ job, attempt, all }) {
  const [search, setSearch] = useState("");
  const [following, setFollowing] = useState(true);
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const { said, fault } = useLog(job.id, attempt);
  const wanted = search.trim().toLowerCase();
  const found = wanted ? said.filter((line) => line.toLowerCase().includes(wanted)) : said;
  useEffect(() => {
    if (following && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [said, following, wanted]);
  return html`
    <form class="row" role="search" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
      <${Field} label="Attempt" name="log-attempt">
        ${(/** @type {any} */ given) => html`<select ...${given} value=${attempt.number}
          onChange=${(/** @type {any} */ event) => go(`/jobs/${job.id}/log`, { attempt: event.target.value }, { replace: true })}>
          ${all.map((/** @type {any} */ each) => html`<option value=${each.number}>${each.number}, on ${each.worker}</option>`)}
        </select>`}
      </${Field}>
      <${Field} label="Search the log" name="log-search">
        ${(/** @type {any} */ given) => html`<input ...${given} type="search" value=${search}
          onInput=${(/** @type {any} */ event) => setSearch(event.target.value)} />`}
      </${Field}>
      <label class="check"><input type="checkbox" checked=${following} onChange=${() => setFollowing(!following)} /> Stay at the end</label>
      <a class="button" download=${`${job.id}.attempt-${attempt.number}.log`}
        href=${address(jobPath(job.id, "/logs"), { attempt: attempt.number })}>Download</a>
    </form>
    <${FaultNotice} fault=${fault} />
    <pre class="log" tabindex="0" role="region" aria-label="Log" ref=${box}>${found.join("\n")}</pre>
    <p class="small quiet">${wanted ? `${count(found.length)} of ` : ""}${plural(said.length, "line")}${
      said.length >= MOST_LINES && ", the newest; the download has all that is kept"}.</p>
  `;
}

/**
 * The newest lines; anew from the service when the connection breaks.
 * @param {string} jobId @param {any} attempt
 * @returns {{said: string[], fault: any}}
 */
function useLog(jobId, attempt) {
  const [said, setSaid] = useState(/** @type {string[]} */ ([]));
  const [fault, setFault] = useState(/** @type {any} */ (null));
  const over = useRef(false);
  over.current = attempt.outcome !== null;

  useEffect(() => {
    const gone = new AbortController();
    /** @type {ReturnType<typeof setTimeout> | null} */
    let painting = null;

    async function read(/** @type {AbortSignal} */ signal) {
      /** @type {string[]} */
      let kept = [];
      const paint = () => {
        painting ??= setTimeout(() => {
          painting = null;
          setSaid(kept.slice(-MOST_LINES));
        }, PAINT_MS);
      };
      const query = { attempt: attempt.number, tail: MOST_LINES, follow: true };
      const answer = await ask("GET", jobPath(jobId, "/logs"), { query, signal });
      setFault(null);
      for await (const line of lines(answer)) {
        if (kept.length > 2 * MOST_LINES) kept = kept.slice(-MOST_LINES);
        kept.push(line.replace(STEERING, ""));
        paint();
      }
    }
    async function run() {
      while (!gone.signal.aborted) {
        const last = over.current;
        try {
          await whileSeen(gone.signal, read);
          if (last) return;
        } catch (error) {
          if (gone.signal.aborted) return;
          const known = /** @type {any} */ (error);
          if (known.status >= 400 && known.status < 500 && known.status !== 429) return setFault(known);
        }
        await new Promise((go) => setTimeout(go, PAUSE_MS));
      }
    }
    run();
    return () => {
      gone.abort();
      if (painting) clearTimeout(painting);
    };
  }, [jobId, attempt.number]);
  return { said, fault };
}
