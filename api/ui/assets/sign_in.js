// @ts-check
/** Signing in: by an API key once, or by the link that `tunery open` prints. */
import { html, useEffect, useState } from "./vendor/preact.js";
import { ask } from "./api.js";
import { useAction } from "./loaded.js";
import { FaultNotice, Field, Notice } from "./parts/basics.js";
import { go } from "./router.js";

export function SignIn({ code, why, signedIn }) {
  const [key, setKey] = useState("");
  const opening = useAction(async (/** @type {any} */ shown) => {
    const answer = await ask("POST", "/ui/session", { json: shown });
    setKey("");
    signedIn(await answer.json());
  });

  useEffect(() => {
    document.title = "Sign in · Tunery";
    if (code) {
      go("/sign-in", {}, { replace: true }); // out of the address: it is good for once only
      opening.run({ code });
    }
  }, []);

  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    opening.run({ key: key.trim() });
  };
  return html`
    <main class="alone">
      <h1>Tunery</h1>
      <p>Sign in with an API key of this service. The browser keeps it for no longer than it takes to
      send it; the session ends after 12 hours.</p>
      <form onSubmit=${send}>
        <${Field} label="API key" name="key"
          hint=${html`Begins with <code>sk-tunery-</code>. On the machine where the service
            runs, <code>tunery open</code> signs you in without one.`}>
          ${(/** @type {any} */ given) => html`<input ...${given} type="password" autocomplete="off"
            spellcheck=${false} required value=${key}
            onInput=${(/** @type {any} */ event) => setKey(event.target.value)} />`}
        </${Field}>
        <button class="main" type="submit" disabled=${opening.busy || !key.trim()}>
          ${opening.busy ? "Signing in …" : "Sign in"}
        </button>
      </form>
      ${opening.fault
        ? html`<${FaultNotice} fault=${opening.fault} />`
        : why && html`<${Why} fault=${why} />`}
    </main>
  `;
}

/** Whoever was never signed in needs no reason. */
function Why({ fault }) {
  if (fault.status !== 401) return html`<${FaultNotice} fault=${fault} />`;
  if (/^No API key/.test(fault.message)) return null;
  return html`<${Notice} tone="warn"><p>The session has ended. Sign in again.</p>
    <p class="small">${fault.message}</p></${Notice}>`;
}
