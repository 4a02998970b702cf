// @ts-check
/** What a data set is for a model. */
import { html } from "../vendor/preact.js";
import { useLoaded } from "../loaded.js";
import { count } from "../words.js";
import { Await, Facts } from "./basics.js";

/** @param {{fileId: string, model: string | null, maxLength: number | null}} props */
export function Report({ fileId, model, maxLength }) {
  const report = useLoaded(`/v1/files/${fileId}/report`, { model, max_length: model && maxLength });
  return html`<${Await} loaded=${report}>
    ${(/** @type {any} */ found) => html`<${Facts} pairs=${[
      ["Rows", count(found.rows)],
      ["Tokens of an epoch", found.tokens && count(found.tokens.epoch_tokens)],
    ]} />`}
  </${Await}>`;
}
