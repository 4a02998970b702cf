// @ts-check
/** A project's own limits. */
import { html, useState } from "../../vendor/preact.js";
import { post } from "../../api.js";
import { useAction } from "../../loaded.js";
import { FaultNotice, Field, Section } from "../../parts/basics.js";
import { at, elsewhere } from "../../parts/refusals.js";
import { bytes } from "../../words.js";

const KINDS = [
  ["running_jobs", "Running jobs at once"],
  ["unfinished_jobs", "Unfinished jobs"],
  ["files", "Files"],
  ["stored_bytes", "Bytes in storage"],
  ["device_hours", "Device hours a month"],
  ["cost", "Budget a month"],
];

/** @param {{project: any, path: string, changed: () => void}} props */
export function Limits({ project, path, changed }) {
  /** @returns {Record<string, string>} */
  const written = () =>
    Object.fromEntries(KINDS.map(([kind]) => [kind, String(project.own_limits[kind] ?? "")]));
  const [wanted, setWanted] = useState(written);
  const [saved, setSaved] = useState(false);
  const saving = useAction(async () => {
    const limits = KINDS.map(([kind]) => [kind, wanted[kind] === "" ? null : Number(wanted[kind])]);
    await post(path, { limits: Object.fromEntries(limits) });
    setSaved(true);
    changed();
  });
  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    saving.run();
  };
  /** What holds where the field is empty, as far as it is known. */
  const hint = (/** @type {string} */ kind) => {
    if (kind === "cost" && project.currency === null) return "No pool has a price, so nothing costs anything.";
    if (kind === "stored_bytes" && wanted[kind]) return bytes(Number(wanted[kind]));
    if (wanted[kind] !== "") return "The project's own.";
    if (project.own_limits[kind] !== null) return "Empty: the service's limit will hold.";
    const holds = project.limits[kind];
    return holds === null ? "The service sets no limit." : `The service's: ${holds.toLocaleString("en")}.`;
  };
  return html`
    <${Section} title="Limits">
      <p class="quiet">An empty field leaves it to the service's own limit.</p>
      <form onSubmit=${send}>
        <div class="columns">
          ${KINDS.map(
            ([kind, label]) => html`<${Field} key=${kind} label=${label} name=${kind}
              hint=${hint(kind)} wrong=${at(saving.fault, `limits.${kind}`)}>
              ${(/** @type {any} */ given) => html`<input ...${given} type="number" min="0" step=${kind === "cost" ? "any" : "1"}
                value=${wanted[kind]} onInput=${(/** @type {any} */ event) => {
                  setSaved(false);
                  setWanted({ ...wanted, [kind]: event.target.value });
                }} />`}
            </${Field}>`,
          )}
        </div>
        <div class="actions">
          <button type="submit" class="main" disabled=${saving.busy}>Save limits</button>
          <span role="status" class="good">${saved ? "Saved" : ""}</span>
        </div>
        <${FaultNotice} fault=${elsewhere(saving.fault, KINDS.map(([kind]) => `limits.${kind}`))} />
      </form>
    </${Section}>
  `;
}
