// @ts-check
/** The lines that make this very job again. */
import { html, useState } from "../../vendor/preact.js";
import { jobPath } from "../../api.js";
import { useLoaded } from "../../loaded.js";
import { Await, Code, Section } from "../../parts/basics.js";
import { command, curl, node, python } from "../../parts/lines.js";

const PROGRAMS = { python: "Python", node: "Node", curl: "curl", command: "tunery" };
const WRITTEN = { python, node, curl };

export function Lines({ job }) {
  const [program, setProgram] = useState("python");
  const request = useLoaded(jobPath(job.id, "/request"));
  const training = useLoaded(`/v1/files/${job.training_file}`);
  const validation = useLoaded(job.validation_file && `/v1/files/${job.validation_file}`);
  const base = `${location.origin}/v1`;
  const written = (/** @type {any} */ resolved) =>
    program === "command"
      ? command(resolved, base, {
          training: nameOf(training.data, "training"),
          columns: training.data?.columns,
          validation: job.validation_file && nameOf(validation.data, "validation"),
        })
      : WRITTEN[/** @type {keyof typeof WRITTEN} */ (program)](resolved, base);
  return html`
    <${Section} title="Make this job with a program">
      <p class="small quiet">All settings are as they were resolved, so that it is the same training.
        Put an API key into <code>TUNERY_KEY</code>.</p>
      <div class="actions" role="group" aria-label="Program">
        ${Object.entries(PROGRAMS).map(
          ([name, words]) => html`<button type="button" class="small" aria-pressed=${name === program}
            onClick=${() => setProgram(name)}>${words}</button>`,
        )}
      </div>
      <${Await} loaded=${request}>
        ${(/** @type {any} */ found) => html`<${Code} text=${written(found.resolved)}
          label=${`Lines for ${PROGRAMS[/** @type {keyof typeof PROGRAMS} */ (program)]}`} />`}
      </${Await}>
    </${Section}>
  `;
}

/** A safe name whose end is the file's: it says how its rows are written. @param {any} file @param {string} name */
const nameOf = (file, name) => `${name}${/\.[a-z0-9]{1,8}(\.gz)?$/i.exec(file?.filename ?? "")?.[0] ?? ".jsonl"}`;
