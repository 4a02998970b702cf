// @ts-check
/** Signing in: by an API key once, by the link that `tunery open` prints, or at a provider. */
import { html, useEffect, useState } from "./vendor/preact.js";
import { Fault, ask, get, post } from "./api.js";
import { useAction } from "./loaded.js";
import { FaultNotice, Field, Notice } from "./parts/basics.js";
import { go } from "./router.js";

// Where somebody was who went to the provider; of this window, and this page's own.
const PLACE = "tunery.place";

/** @param {{back: URLSearchParams | null, why: Fault | null, signedIn: (me: any, place?: string) => void}} props
 *   `back`: what a link, or the provider, sent the browser back with. */
export function SignIn({ back, why, signedIn }) {
  const [key, setKey] = useState("");
  const [provider, setProvider] = useState(/** @type {string | null} */ (null));
  const opening = useAction(async (/** @type {any} */ shown, path = "/ui/session") => {
    const answer = await ask("POST", path, { json: shown });
    setKey("");
    const place = path === "/ui/session" ? null : sessionStorage.getItem(PLACE);
    sessionStorage.removeItem(PLACE);
    signedIn(await answer.json(), place ?? undefined);
  });
  const leaving = useAction(async () => {
    const { url } = await post("/ui/oidc");
    const here = location.hash.slice(1);
    if (here && !here.startsWith("/sign-in")) sessionStorage.setItem(PLACE, here);
    location.assign(url);
  });
  const returned = useAction(async (/** @type {URLSearchParams} */ said) => {
    throw new Fault(0, { message: refusal(said) }, null);
  });

  useEffect(() => {
    document.title = "Sign in · Tunery";
    get("/ui/oidc").then((found) => setProvider(found.name), () => {});
    if (!back?.size) return;
    go("/sign-in", {}, { replace: true }); // out of the address: it is good for once only
    const [code, state, iss] = ["code", "state", "iss"].map((name) => back.get(name));
    if (back.get("error")) returned.run(back);
    else if (code && state) opening.run({ code, state, iss }, "/ui/oidc/session");
    else if (code) opening.run({ code });
  }, []);

  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    opening.run({ key: key.trim() });
  };
  return html`
    <main class="alone">
      <h1>Tunery</h1>
      ${provider && html`<p><button class="main" type="button" disabled=${leaving.busy || opening.busy}
        onClick=${() => leaving.run()}>Sign in with ${provider}</button></p>`}
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
        <button class=${provider ? "" : "main"} type="submit" disabled=${opening.busy || !key.trim()}>
          ${opening.busy ? "Signing in …" : "Sign in"}
        </button>
      </form>
      ${opening.fault || leaving.fault || returned.fault
        ? html`<${FaultNotice} fault=${opening.fault || leaving.fault || returned.fault} />`
        : why && html`<${Why} fault=${why} />`}
    </main>
  `;
}

/** What the provider said no with, as words of its own (RFC 6749, 4.1.2.1). */
const refusal = (/** @type {URLSearchParams} */ said) =>
  `The provider has let nobody in: ${said.get("error_description") ?? said.get("error")}`;

/** Whoever was never signed in needs no reason. */
function Why({ fault }) {
  if (fault.status !== 401) return html`<${FaultNotice} fault=${fault} />`;
  if (/^No API key/.test(fault.message)) return null;
  return html`<${Notice} tone="warn"><p>The session has ended. Sign in again.</p>
    <p class="small">${fault.message}</p></${Notice}>`;
}
