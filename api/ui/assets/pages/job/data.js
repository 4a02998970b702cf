// @ts-check
/** What the job's data are for its model. */
import { html } from "../../vendor/preact.js";
import { Section } from "../../parts/basics.js";
import { Report } from "../../parts/report.js";
import { href } from "../../router.js";
import { percent } from "./settings.js";

export function Data({ job }) {
  const { training, max_length: maxLength } = job.tunery;
  // A tuned model brings the template that it was trained with.
  const model = training?.chat_template && job.fine_tuned_model ? job.fine_tuned_model : job.model;
  const files = [["Training file", job.training_file], ["Validation file", job.validation_file]];
  return html`
    ${training?.validation_split && html`<p>${percent(training.validation_split)} of the rows are held out and validated on.</p>`}
    ${files.filter(([, id]) => id).map(
      ([title, id]) => html`<${Section} key=${id} title=${title}
        actions=${html`<a href=${href(`/files/${id}`)}><code>${id}</code></a>`}>
        <${Report} fileId=${id} model=${model} maxLength=${maxLength} />
      </${Section}>`,
    )}
  `;
}
