// @ts-check
/** A key for a new worker, and the commands that start it. */
import { html, useState } from "../../vendor/preact.js";
import { post } from "../../api.js";
import { useAction } from "../../loaded.js";
import { Code, FaultNotice, Field, Section } from "../../parts/basics.js";
import { at, elsewhere } from "../../parts/refusals.js";
import { Secret } from "../../parts/secret.js";
import { useMe } from "../../session.js";

/** @param {{leave: () => void}} props */
export function AddWorker({ leave }) {
  const me = useMe();
  const [name, setName] = useState("");
  const [made, setMade] = useState(/** @type {any} */ (null));
  const making = useAction(async () =>
    setMade(
      await post(`/v1/admin/projects/${encodeURIComponent(me.project_id)}/keys`, {
        name: name ? `worker ${name}` : "worker",
        scopes: ["worker"],
      }),
    ),
  );
  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    making.run();
  };
  return html`
    <${Section} title="Add a worker">
      ${made
        ? html`<${Secret} title="A key for the worker" label="Worker key" text=${made.key} done=${leave}>
            <p>On the machine with the GPU, in a checkout of Tunery of this service's version:</p>
            <${Code} label="Commands" text=${commands(made.key, name)} />
            <p>It needs a way to this address and nothing else. It shows itself below within some
            seconds. A container or a Celery worker takes the same variables.</p>
          </${Secret}>`
        : html`<form onSubmit=${send}>
            <p>A worker is a machine with a GPU, or a CPU. It signs in with a key that is good for claiming
            jobs and for nothing else.</p>
            <${Field} label="Name of the worker" name="worker-name" wrong=${at(making.fault, "name")}
              hint="For people. Left empty: the machine's own name.">
              ${(given) => html`<input ...${given} maxlength="90" value=${name}
                pattern="[A-Za-z0-9][A-Za-z0-9 ._:@\\/\\(\\)+\\-]*"
                title="Letters, digits, spaces and . _ : @ / ( ) + -, a letter or digit first"
                onInput=${(event) => setName(event.target.value)} />`}
            </${Field}>
            <div class="actions">
              <button type="submit" class="main" disabled=${making.busy}>Make a key</button>
              <button type="button" onClick=${leave}>Leave it</button>
            </div>
            <${FaultNotice} fault=${elsewhere(making.fault, ["name"])} />
          </form>`}
    </${Section}>
  `;
}

/** @param {string} key @param {string} name Without quotes, as the form takes it. */
const commands = (key, name) => `python3 -m venv .venv
.venv/bin/pip install -c constraints.txt ".[worker]"
export TUNERY_API_URL=${location.origin}
export TUNERY_WORKER_KEY=${key}
export TUNERY_WORK_DIR=/var/lib/tunery/work   # this worker's own, writable
${name ? `export TUNERY_WORKER_NAME='${name}'\n` : ""}.venv/bin/python -m worker --poll`;
