// @ts-check
/** What can be done with a job, by its state. */
import { html } from "../../vendor/preact.js";
import { get, jobPath, post, remove } from "../../api.js";
import { useAction } from "../../loaded.js";
import { AskIt } from "../../parts/ask_it.js";
import { AskFirst, FaultNotice, LinkButton } from "../../parts/basics.js";
import { go, href } from "../../router.js";
import { useMay } from "../../session.js";
import { ENDED } from "./state.js";

export function Actions({ job, reload }) {
  const writes = useMay("write");
  const asks = job.fine_tuned_model && job.method.type !== "masked_lm";
  return html`
    ${asks && html`<${AskIt} names=${[job.fine_tuned_model, job.tunery.base_model]} />`}
    ${writes && html`<${Changes} job=${job} reload=${reload} />`}
  `;
}

function Changes({ job, reload }) {
  const acting = useAction(async (/** @type {() => Promise<void>} */ act) => {
    await act();
    reload();
  });
  const ended = ENDED.has(job.status);
  const wanted = job.tunery.wanted;
  const ask = (/** @type {string} */ verb) => () => acting.run(() => post(jobPath(job.id, `/${verb}`)));
  const erase = () =>
    acting.run(async () => {
      await remove(jobPath(job.id));
      go("/jobs");
    });
  const again = () =>
    acting.run(async () => {
      const { resolved } = await get(jobPath(job.id, "/request"));
      const made = await post("/v1/fine_tuning/jobs", resolved);
      go(`/jobs/${made.id}`);
    });
  return html`
    ${!ended && wanted === "run" &&
    html`<button type="button" disabled=${acting.busy} onClick=${ask("pause")}>Pause</button>`}
    ${!ended && wanted === "pause" &&
    html`<button type="button" class="main" disabled=${acting.busy} onClick=${ask("resume")}>Resume</button>`}
    ${!ended && wanted !== "cancel" &&
    html`<${AskFirst} label="Cancel job" act=${ask("cancel")} busy=${acting.busy}
      question="Cancel this job for good? What it has trained so far stays as its checkpoints; it cannot be resumed." />`}
    <${LinkButton} href=${href("/new", { from: job.id })}>Clone</${LinkButton}>
    ${ended && html`
      <${AskFirst} label="Rerun" act=${again} busy=${acting.busy} danger=${false}
        question="Create the same job once more, with the same data, settings and seed? It starts at once." />
      <${AskFirst} label="Delete job" act=${erase} busy=${acting.busy}
        question="Delete this job for good, with its model, checkpoints, exports, events and logs? Its data and its result file stay." />`}
    ${acting.fault && html`<div class="whole"><${FaultNotice} fault=${acting.fault} /></div>`}
  `;
}
