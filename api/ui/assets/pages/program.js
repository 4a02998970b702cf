// @ts-check
/** `#/program`: `tunery login` on somebody's machine asks for a key of theirs. Its answer goes to that
 * machine alone (RFC 8252), or is copied by hand. */
import { html, useState } from "../vendor/preact.js";
import { post } from "../api.js";
import { useAction } from "../loaded.js";
import { FaultNotice, Notice, Page } from "../parts/basics.js";
import { Secret } from "../parts/secret.js";
import { useMe } from "../session.js";

/** @param {import("../router.js").PageProps} props */
export default function Program({ query }) {
  const me = useMe();
  const [code, setCode] = useState(/** @type {string | null} */ (null));
  const [done, setDone] = useState(false);
  const [challenge, port, state] = ["challenge", "port", "state"].map((name) => query.get(name));
  const letting = useAction(async () => {
    const found = await post("/ui/program", { challenge });
    if (!port || !/^\d{4,5}$/.test(port)) {
      setCode(found.code);
      return;
    }
    setDone(true);
    const said = new URLSearchParams({ code: found.code, state: state ?? "" });
    location.assign(`http://127.0.0.1:${port}/?${said}`);
  });
  const name = query.get("name") ?? "a machine";
  if (!challenge) {
    return html`<${Page} title="Let a program in"><p>Run <code>tunery login</code>: it opens this page.</p></${Page}>`;
  }
  return html`<${Page} title="Let a program in">
    ${code
      ? html`<${Secret} title="Give this code to the program, within 5 minutes" label="Code" text=${code}
          done=${() => (setCode(null), setDone(true))} />`
      : done
        ? html`<${Notice} tone="good">The program has its code. You can close this window.</${Notice}>`
        : html`<p>The command <code>tunery login</code> on <bdi>${name}</bdi> asks for a key of yours. It will act
            as <bdi>${me.person ?? "you"}</bdi> in the project <bdi>${me.project}</bdi>, read and write there as
            far as you may, and end in 30 days, or when you revoke it under <a href="#/keys">Your keys</a>.</p>
          <p>If you have not started it on that machine just now, somebody else asks: close this window.</p>
          <div class="actions"><button type="button" class="main" disabled=${letting.busy}
            onClick=${() => letting.run()}>Let it in</button></div>`}
    <${FaultNotice} fault=${letting.fault} />
  </${Page}>`;
}
