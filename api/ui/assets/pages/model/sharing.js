// @ts-check
/** Other projects that may use a tuned model. */
import { html, useState } from "../../vendor/preact.js";
import { inPath, post, remove } from "../../api.js";
import { useAction, useLoaded } from "../../loaded.js";
import { AskFirst, Await, FaultNotice, Field, Section, Table, Time } from "../../parts/basics.js";
import { useMe } from "../../session.js";

const MOST = 1000;

/** @param {{name: string}} props */
export function Sharing({ name }) {
  const path = `/v1/fine_tuning/checkpoints/${inPath(name)}/permissions`;
  const given = useLoaded(path, { limit: MOST });
  const projects = useLoaded("/v1/admin/projects", { limit: MOST });
  const taking = useAction(async (id) => {
    await remove(`${path}/${encodeURIComponent(id)}`);
    given.reload();
  });
  const nameOf = (/** @type {string} */ id) =>
    projects.data?.data.find((/** @type {any} */ one) => one.id === id)?.name ?? id;
  return html`
    <${Section} title="Shared with">
      <${FaultNotice} fault=${taking.fault} />
      <${Await} loaded=${given}>
        ${(/** @type {any} */ found) => html`
          ${found.data.length
            ? html`<${Table} label="Shared with" rows=${found.data} columns=${[
                { name: "Project", cell: (one) => html`<bdi>${nameOf(one.project_id)}</bdi>` },
                { name: "Since", cell: (one) => html`<${Time} at=${one.created_at} />` },
                {
                  name: "Change",
                  hidden: true,
                  cell: (one) => html`<${AskFirst} label="Take back" busy=${taking.busy}
                    question=${`Take the permission back from ${nameOf(one.project_id)}? Jobs that it has begun go on.`}
                    act=${() => taking.run(one.id)} />`,
                },
              ]} />`
            : html`<p class="quiet">No other project may use it.</p>`}
          <${Give} path=${path} taken=${found.data} projects=${projects} done=${given.reload} />
        `}
      </${Await}>
    </${Section}>
  `;
}

function Give({ path, taken, projects, done }) {
  const me = useMe();
  const [to, setTo] = useState("");
  const giving = useAction(async () => {
    await post(path, { project_ids: [to] });
    setTo("");
    done();
  });
  const others = (projects.data?.data ?? []).filter(
    (/** @type {any} */ one) =>
      one.id !== me.project_id && !taken.some((/** @type {any} */ given) => given.project_id === one.id),
  );
  if (projects.data && !others.length) {
    return html`<p class="quiet">There is no other project to share it with.</p>`;
  }
  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    giving.run();
  };
  return html`
    <form class="row" onSubmit=${send}>
      <${Field} label="Share with the project" name="share-with">
        ${(given) => html`<select ...${given} required value=${to}
          onInput=${(event) => setTo(event.target.value)}>
          <option value="">Choose</option>
          ${others.map((one) => html`<option key=${one.id} value=${one.id}>${one.name}</option>`)}
        </select>`}
      </${Field}>
      <button type="submit" disabled=${!to || giving.busy}>Share</button>
    </form>
    <p class="hint">That project may see the model and start jobs from it. It cannot see your data, or
    download the model.</p>
    <${FaultNotice} fault=${giving.fault ?? projects.fault} />
  `;
}
