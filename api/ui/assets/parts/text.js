// @ts-check
/** Sentences of the service as they are shown. */
import { html } from "../vendor/preact.js";

/** Words with their `names` in code. @param {string} words */
export const withCode = (words) => words.split("`").map((part, i) => (i % 2 ? html`<code>${part}</code>` : part));
