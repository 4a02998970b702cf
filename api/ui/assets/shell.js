// @ts-check
/** What stands around every page. */
import { html, useEffect, useState } from "./vendor/preact.js";
import { ask, get, news, post } from "./api.js";
import { useAction } from "./loaded.js";
import { FaultNotice } from "./parts/basics.js";
import { go } from "./router.js";
import { useMay, useMe } from "./session.js";

const PLACES = [
  ["/jobs", "Jobs"],
  ["/files", "Files"],
  ["/models", "Models"],
  ["/playground", "Playground"],
  ["/webhooks", "Webhooks"],
  ["/usage", "Usage"],
];
const OPERATORS = [
  ["/admin/workers", "Workers"],
  ["/admin/queue", "Queue"],
  ["/admin/models", "Base models"],
  ["/admin/projects", "Projects and keys"],
  ["/admin/audit", "Audit"],
];

export function Shell({ here, signedOut, children }) {
  const me = useMe();
  const admin = useMay("admin");
  const writes = useMay("write");
  const away = useAway();
  const [open, setOpen] = useState(false);
  useEffect(() => setOpen(false), [here.path]);

  const signOut = async () => {
    const answer = await ask("DELETE", "/ui/session");
    if (answer.status === 200) {
      location.assign((await answer.json()).url); // to end the session at the provider, too
      return;
    }
    go("/jobs", {}, { replace: true });
    signedOut();
  };
  const within = (/** @type {string} */ path) =>
    here.path === path || here.path.startsWith(`${path}/`) || (here.path === "/" && path === "/jobs");
  const link = (/** @type {string[]} */ [path, name]) =>
    html`<li><a href=${`#${path}`} aria-current=${within(path) ? "page" : undefined}>${name}</a></li>`;

  return html`
    <button class="skip" type="button"
      onClick=${() => /** @type {HTMLElement | null} */ (document.querySelector("main h1"))?.focus()}>
      Skip to the page
    </button>
    <div class="shell">
      <header class="side">
        <div class="brand">
          <a href="#/jobs">Tunery</a>
          <button type="button" class="menu" aria-expanded=${open} aria-controls="ways"
            onClick=${() => setOpen(!open)}>Menu</button>
        </div>
        <nav id="ways" aria-label="Main" class=${open ? "open" : ""}>
          ${writes && html`<a class="button main" href="#/new">New fine-tune</a>`}
          <ul>${PLACES.map(link)}</ul>
          ${admin && html`<h2 id="operators">For operators</h2>
            <ul aria-labelledby="operators">${OPERATORS.map(link)}</ul>`}
          <div class="who">
            <p class="small">${me.person && html`<bdi>${me.person}</bdi><br />`}
              <span class="quiet">Project</span> ${me.project}<br />
              <span class="quiet">May</span> ${me.scopes.join(", ")}</p>
            ${me.person && html`<${Switch} me=${me} path=${here.path} />
              <p class="small"><a href="#/keys">Your keys</a></p>`}
            <button type="button" class="small" onClick=${signOut}>Sign out</button>
          </div>
        </nav>
      </header>
      <main>
        ${away && html`<div class="notice warn" role="status">The service does not answer. Trying again …</div>`}
        ${children}
      </main>
    </div>
  `;
}

/** A person's other projects. Another one is another page: nothing of this one stays. */
function Switch({ me, path }) {
  const [mine, setMine] = useState(/** @type {any[]} */ ([]));
  useEffect(() => {
    get("/v1/me/projects", { limit: 1000 }).then((found) => setMine(found.data), () => {});
  }, [me.project_id]);
  const going = useAction(async (/** @type {string} */ id) => {
    await post("/ui/session/project", { project_id: id });
    if (path !== "/program") location.hash = "/jobs";
    location.reload();
  });
  if (mine.length < 2) return null;
  return html`<label class="small">Go to project
    <select value=${me.project_id} disabled=${going.busy}
      onChange=${(/** @type {any} */ event) => going.run(event.target.value)}>
      ${mine.map((one) => html`<option value=${one.id}>${one.name}</option>`)}
    </select></label>
    <${FaultNotice} fault=${going.fault} />`;
}

/** Whether the last question had no answer. */
function useAway() {
  const [away, setAway] = useState(false);
  useEffect(() => {
    const gone = () => setAway(true);
    const back = () => setAway(false);
    news.addEventListener("away", gone);
    news.addEventListener("back", back);
    return () => {
      news.removeEventListener("away", gone);
      news.removeEventListener("back", back);
    };
  }, []);
  return away;
}
