// @ts-check
/** What was asked, and the answers side by side. */
import { html } from "../../vendor/preact.js";
import { FaultNotice } from "../../parts/basics.js";
import { count, plural } from "../../words.js";

/** @typedef {import("../../answers.js").Answer} Answer @typedef {import("../../answers.js").Turn} Turn */

/** @param {{turns: Turn[], again: (turn: Turn, answer: Answer) => void}} props */
export const Turns = ({ turns, again }) =>
  turns.map(
    (turn) => html`<article class="turn" key=${turn.number} aria-label=${`Question ${turn.number}`}>
      <h3 class="unseen">Question ${turn.number}</h3>
      <p class="said asked"><bdi>${turn.text}</bdi></p>
      ${turn.expected !== null && html`<p class="small quiet">Expected: <bdi>${turn.expected}</bdi></p>`}
      <div class="replies">${turn.answers.map(
        (answer) => html`<${Reply} key=${answer.model} number=${turn.number} answer=${answer} again=${() => again(turn, answer)} />`,
      )}</div>
    </article>`,
  );

function Reply({ number, answer, again }) {
  const { state, text, calls, fault } = answer;
  return html`
    <section class="reply" aria-label=${`Answer of ${answer.model} to question ${number}`}>
      <h4 class="small"><bdi>${answer.model}</bdi></h4>
      ${text && html`<p class="said"><bdi>${text}</bdi></p>`}
      ${calls.map((/** @type {any} */ call) => html`<div>
        <p class="small">Calls <code><bdi>${call.name}</bdi></code> with</p>
        <pre class="call" tabindex="0" role="group" aria-label=${`Arguments of ${call.name}`}><bdi>${indented(call.arguments)}</bdi></pre>
      </div>`)}
      ${state === "waiting" && html`<p class="quiet">Waiting for its first word …</p>`}
      ${state === "complete" && !text && !calls.length && html`<p class="quiet">It said nothing.</p>`}
      <${FaultNotice} fault=${fault} reload=${again} />
      <p class="small quiet">${factsOf(answer)}</p>
      ${state === "stopped" && html`<div class="actions"><button type="button" class="small" onClick=${again}>Answer anew</button></div>`}
    </section>
  `;
}

/** @param {string} json */
function indented(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

/** @type {Record<string, string>} */
const ENDS = { length: "no more tokens were left to it", stop: "", tool_calls: "" };

/** @param {Answer} answer What it took, in words. */
function factsOf({ state, usage, first, took, reason }) {
  const seconds = (/** @type {number} */ ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
  const tail = first !== null && took !== null ? (took - first) / 1000 : 0;
  return [
    first !== null && `first word after ${seconds(first)}`,
    usage && `${plural(usage.prompt_tokens, "token")} read, ${count(usage.completion_tokens)} written`,
    usage && usage.completion_tokens > 1 && tail > 0.05 && `${count((usage.completion_tokens - 1) / tail)} a second`,
    reason && ENDS[reason],
    state === "stopped" && "stopped",
  ]
    .filter(Boolean)
    .join(", ");
}
