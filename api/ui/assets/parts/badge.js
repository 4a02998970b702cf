// @ts-check
import { html } from "../vendor/preact.js";

/**
 * A state in word, sign and colour, for things whose states `Status` does not know.
 * @param {{word: string, sign?: string, tone?: "quiet" | "info" | "good" | "warn" | "bad"}} props
 */
export const Badge = ({ word, sign = "•", tone = "quiet" }) =>
  html`<span class=${`status ${tone}`}><span aria-hidden="true">${sign}</span> ${word}</span>`;
