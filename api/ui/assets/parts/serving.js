// @ts-check
/** How a model is served elsewhere. The service says it where it refuses what only others do. */
import { html, useEffect, useState } from "../vendor/preact.js";
import { Fault, ask } from "../api.js";
import { Code, FaultNotice } from "./basics.js";

/** @param {{name: string}} props */
export function Serving({ name }) {
  const [said, setSaid] = useState(/** @type {Fault | null} */ (null));
  useEffect(() => {
    const gone = new AbortController();
    setSaid(null);
    ask("POST", "/v1/embeddings", { json: { model: name }, signal: gone.signal }).then(
      () => {},
      (fault) => gone.signal.aborted || setSaid(fault),
    );
    return () => gone.abort();
  }, [name]);

  if (!said) return html`<p class="quiet" role="status">Loading …</p>`;
  if (said.code !== "embeddings_not_offered") return html`<${FaultNotice} fault=${said} />`;
  return html`<div class="serving">${parts(said.message.split("elsewhere: ")[1])}</div>`;
}

/** Its sentences, with each command, which stands between back quotes, to be copied. */
const parts = (/** @type {string} */ message) =>
  message.split("`").map((part, i) =>
    i % 2
      ? html`<${Code} text=${part} label=${`Command ${(i + 1) / 2}`} />`
      : /\w/.test(part) && html`<p><bdi>${part.replace(/^[.\s]+/, "")}</bdi></p>`,
  );
