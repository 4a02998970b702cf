// @ts-check
/** `#/keys`: keys of the person's own, for their programs. */
import { html } from "../vendor/preact.js";
import { Page } from "../parts/basics.js";
import { useMe } from "../session.js";
import { Keys } from "./admin/keys.js";

export default function MyKeys() {
  const me = useMe();
  return html`<${Page} title="Your keys">
    <p>For your programs and the command <code>tunery login</code>, in the project <bdi>${me.project}</bdi>.
      A key may no more than you may there, lives for up to 90 days, and ends when you lose your
      group.</p>
    <${Keys} path="/v1/me/keys" scopes=${me.scopes} />
  </${Page}>`;
}
