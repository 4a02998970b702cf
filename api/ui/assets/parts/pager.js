// @ts-check
import { html } from "../vendor/preact.js";
import { href } from "../router.js";
import { LinkButton } from "./basics.js";

/**
 * The way to the rest of a list, and back to its beginning.
 * @param {{page: {has_more: boolean, last_id: string | null}, path: string,
 *   query: Record<string, any>}} props `query`: what the address holds besides `after`.
 */
export const Pager = ({ page, path, query }) =>
  (page.has_more || query.after) &&
  html`<nav class="actions" aria-label="Pages">
    ${query.after &&
    html`<${LinkButton} href=${href(path, { ...query, after: null })}>First page</${LinkButton}>`}
    ${page.has_more &&
    html`<${LinkButton} href=${href(path, { ...query, after: page.last_id })}>Next page</${LinkButton}>`}
  </nav>`;
