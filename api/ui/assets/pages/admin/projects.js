// @ts-check
/** `#/admin/projects`: who is apart from whom. */
import { html, useState } from "../../vendor/preact.js";
import { post } from "../../api.js";
import { useAction, useLoaded } from "../../loaded.js";
import { Await, FaultNotice, Field, Page, Section, Table, Time } from "../../parts/basics.js";
import { at, elsewhere } from "../../parts/refusals.js";
import { Pager } from "../../parts/pager.js";
import { go, href } from "../../router.js";
import { useMe } from "../../session.js";
import { bytes, count } from "../../words.js";
import { Use } from "./use.js";

/** @param {import("../../router.js").PageProps} props */
export default function Projects({ query }) {
  const me = useMe();
  const after = query.get("after");
  const projects = useLoaded("/v1/admin/projects", { limit: 50, after }, { every: 10_000 });
  return html`
    <${Page} title="Projects and keys">
      <${Await} loaded=${projects}>
        ${(/** @type {any} */ found) => html`
          <${Section} title="Projects">
            <${Table} label="Projects" rows=${found.data} columns=${[
              {
                name: "Project",
                cell: (one) => html`<div><a href=${href(`/admin/projects/${one.id}`)}><bdi>${one.name}</bdi></a>
                  ${one.id === me.project_id && html` <span class="quiet small">(yours)</span>`}</div>`,
              },
              { name: "Running jobs", cell: (one) => html`<${Use} project=${one} of="running_jobs" say=${count} />` },
              { name: "Unfinished jobs", cell: (one) => html`<${Use} project=${one} of="unfinished_jobs" say=${count} />` },
              { name: "Files", cell: (one) => html`<${Use} project=${one} of="files" say=${count} />` },
              { name: "Storage", cell: (one) => html`<${Use} project=${one} of="stored_bytes" say=${bytes} />` },
              { name: "Device hours this month", cell: (one) => html`<${Use} project=${one} of="device_hours" say=${String} />` },
              { name: "Created", cell: (one) => html`<${Time} at=${one.created_at} />` },
            ]} />
            <${Pager} page=${found} path="/admin/projects" query=${{ after }} />
          </${Section}>
          <${Create} />
        `}
      </${Await}>
    </${Page}>
  `;
}

function Create() {
  const [name, setName] = useState("");
  const creating = useAction(async () => {
    const made = await post("/v1/admin/projects", { name });
    go(`/admin/projects/${made.id}`);
  });
  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    creating.run();
  };
  return html`
    <${Section} title="New project">
      <form onSubmit=${send}>
        <${Field} label="Name" name="name" wrong=${at(creating.fault, "name")}
          hint="Letters, digits, dots, dashes and underscores. It becomes a part of the names of the project's models.">
          ${(given) => html`<input ...${given} required maxlength="63" value=${name}
            onInput=${(event) => setName(event.target.value)} />`}
        </${Field}>
        <button type="submit" class="main" disabled=${creating.busy || !name}>Create</button>
        <${FaultNotice} fault=${elsewhere(creating.fault, ["name"])} />
      </form>
    </${Section}>
  `;
}
