// @ts-check
/** What is said of models. */
import { html } from "../../vendor/preact.js";
import { Badge } from "../../parts/badge.js";
import { inPath } from "../../api.js";
import { href } from "../../router.js";

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** @param {number | undefined} value As 7.62B. */
export const rough = (value) => (value == null ? "–" : compact.format(value));

/** @param {string} name */
export const modelHref = (name) => href(`/models/${inPath(name)}`);

export const isCheckpoint = (/** @type {string} */ name) => /:ckpt-step-\d+$/.test(name);

export const BaseState = ({ model }) =>
  model.broken
    ? html`<${Badge} word="cannot be trained" sign="✕" tone="bad" />`
    : model.examined
      ? html`<${Badge} word="ready" sign="✓" tone="good" />`
      : html`<${Badge} word="not examined yet" sign="…" tone="info" />`;

const WAYS = {
  packed: "the rows of a step lie in one sequence, without padding",
  padded: "rows of about one length are computed as a padded batch",
  "row by row": "each row of a step is computed by itself, which is slower",
};

/** @param {{way: string, device: string}} examined */
export const briefly = (examined) => `${examined.way}, on ${deviceOf(examined)}`;

const deviceOf = (/** @type {{device: string}} */ { device }) =>
  device === "cuda" ? "a GPU" : device === "cpu" ? "a CPU" : device;

/** @param {any} model A base model. @returns {string} What its examination found. */
export function verdict(model) {
  const found = model.examined;
  if (!found) {
    return "Not yet. The first worker that is to load it examines its family, in about a second, before it trains.";
  }
  const [way, apart] = found.way.split(", taken apart for ");
  const how = WAYS[way] ? `${way}: ${WAYS[way]}` : found.way;
  const parts = apart ? `, and taken apart for ${apart}` : "";
  return (
    `It trains ${how}${parts}. Losses and gradients were equal to those of plain transformers and ` +
    `PEFT, on ${deviceOf(found)} with torch ${found.torch}, transformers ${found.transformers} and PEFT ${found.peft}.`
  );
}
