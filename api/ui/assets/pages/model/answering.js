// @ts-check
/** What answers as a tuned model: workers, or a server that has proved itself. */
import { html } from "../../vendor/preact.js";
import { Badge } from "../../parts/badge.js";
import { Section, Time } from "../../parts/basics.js";

/** @type {Record<string, {word: string, sign: string, tone: "good" | "bad" | "warn"}>} */
const STATES = {
  verified: { word: "trained weights", sign: "✓", tone: "good" },
  answers_as_base: { word: "answers as its base", sign: "✕", tone: "bad" },
  answers_as_other: { word: "answers with other weights", sign: "✕", tone: "bad" },
  unverified: { word: "not verified", sign: "…", tone: "warn" },
};

/** @param {{served: {state: string, reason: string, attested_at: number} | undefined}} props */
export function Answering({ served }) {
  const state = served && (STATES[served.state] ?? { word: served.state });
  return html`
    <${Section} title="What answers" actions=${state && html`<${Badge} ...${state} />`}>
      ${served
        ? html`<p>A server that an operator registered has this model. <bdi>${served.reason}</bdi>
            ${state?.tone === "bad" && " It is not asked; workers answer."}</p>
          <p class="small quiet">Last asked for its proof <${Time} at=${served.attested_at} />.</p>`
        : html`<p>A worker answers, as soon as one has room.</p>`}
    </${Section}>
  `;
}
