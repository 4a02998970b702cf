// @ts-check
/** The way to the playground, with models chosen. */
import { html } from "../vendor/preact.js";
import { href } from "../router.js";
import { LinkButton } from "./basics.js";

/** @param {(string | null | undefined)[]} names Those that there are. */
export const askHref = (names) => href("/playground", { m: [...new Set(names.filter(Boolean))] });

/** @param {{names: (string | null | undefined)[], main?: boolean}} props */
export const AskIt = ({ names, main = false }) => html`<${LinkButton} href=${askHref(names)} main=${main}>Ask it</${LinkButton}>`;
