// @ts-check
/** The console: who is signed in, the way around, and the page that the address names. */
import { html, render, useEffect, useRef, useState } from "./vendor/preact.js";
import { Fault, actIn, get, news } from "./api.js";
import { ROUTES } from "./routes.js";
import { find, usePlace } from "./router.js";
import { Session } from "./session.js";
import { FaultNotice, LinkButton, Notice, Page } from "./parts/basics.js";
import { SignIn } from "./sign_in.js";
import { Shell } from "./shell.js";

const RETRY_MS = 3_000;

function Console() {
  const [me, setMyself] = useState(/** @type {import("./session.js").Me | null} */ (null));
  const setMe = (/** @type {import("./session.js").Me | null} */ found) => {
    actIn(found && found.project_id);
    setMyself(found);
  };
  const [why, setWhy] = useState(/** @type {Fault | null} */ (null));
  const [asked, setAsked] = useState(false);
  const here = usePlace();

  useEffect(() => {
    const look = () =>
      get("/v1/me").then(
        (found) => {
          setMe(found);
          setWhy(null);
          setAsked(true);
        },
        (fault) => {
          setWhy(fault);
          setAsked(true);
          if (fault.status === 0 || fault.status >= 500) setTimeout(look, RETRY_MS);
        },
      );
    look();
    const out = (/** @type {any} */ event) => {
      setWhy(event.detail);
      setMe(null);
    };
    news.addEventListener("signed-out", out);
    return () => news.removeEventListener("signed-out", out);
  }, []);

  if (!asked) return null;
  if (here.path === "/sign-in" || !me) {
    return html`<${SignIn}
      key=${here.path}
      back=${here.path === "/sign-in" ? here.query : null}
      why=${why}
      signedIn=${(/** @type {import("./session.js").Me} */ found, /** @type {string} */ place) => {
        setMe(found);
        setWhy(null);
        if (here.path === "/sign-in") location.replace(`#${place ?? "/jobs"}`);
      }}
    />`;
  }
  return html`<${Session.Provider} value=${me}>
    <${Shell} here=${here} signedOut=${() => {
      setWhy(null);
      setMe(null);
    }}>
      <${CurrentPage} here=${here} />
    </${Shell}>
  </${Session.Provider}>`;
}

function CurrentPage({ here }) {
  const found = find(ROUTES, here.path);
  const pattern = found?.route.pattern;
  const [shown, setShown] = useState(/** @type {any} */ (null));
  const first = useRef(true);

  useEffect(() => {
    let gone = false;
    if (found) {
      found.route.load().then(
        (module) => gone || setShown({ pattern, component: module.default }),
        () => gone || setShown({ pattern, outdated: true }),
      );
    }
    return () => {
      gone = true;
    };
  }, [pattern]);

  // Whoever cannot see that the page has changed is taken to its heading.
  const subject = found && `${pattern} ${found.params.id ?? found.params.name ?? ""}`;
  useEffect(() => {
    if (shown?.pattern !== pattern) return;
    if (!first.current) {
      scrollTo(0, 0);
      /** @type {HTMLElement | null} */ (document.querySelector("main h1"))?.focus();
    }
    first.current = false;
  }, [subject, shown]);

  if (!found) {
    return html`<${Page} title="No such page">
      <p>Nothing is at <code>${here.path}</code>.</p>
      <${LinkButton} href="#/jobs" main>Go to the jobs</${LinkButton}>
    </${Page}>`;
  }
  if (shown?.pattern !== pattern) return html`<p class="quiet" role="status">Loading …</p>`;
  if (shown.outdated) {
    return html`<${Page} title="This page is out of date">
      <${Notice} tone="warn">
        <p>The service has another version by now, or does not answer. Reload the page.</p>
        <button type="button" onClick=${() => location.reload()}>Reload</button>
      </${Notice}>
    </${Page}>`;
  }
  return html`<${Guard} key=${subject}>
    <${shown.component} params=${found.params} query=${here.query} />
  </${Guard}>`;
}

/** Shows a fault of the page itself, where else nothing would be shown. */
function Guard({ children }) {
  const [fault, setFault] = useState(/** @type {Fault | null} */ (null));
  useEffect(() => {
    const broken = (/** @type {PromiseRejectionEvent | ErrorEvent} */ event) => {
      const cause = "reason" in event ? event.reason : event.error;
      if (!cause || cause.name === "AbortError") return;
      setFault(cause instanceof Fault ? cause : new Fault(0, { message: `This page failed: ${cause}` }, null));
    };
    addEventListener("unhandledrejection", broken);
    addEventListener("error", broken);
    return () => {
      removeEventListener("unhandledrejection", broken);
      removeEventListener("error", broken);
    };
  }, []);
  return html`<${FaultNotice} fault=${fault} />${children}`;
}

render(html`<${Console} />`, /** @type {HTMLElement} */ (document.getElementById("console")));
