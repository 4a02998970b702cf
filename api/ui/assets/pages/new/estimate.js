// @ts-check
/** Step 4: what the job would be, while it is being filled in. */
import { html, useEffect, useState } from "../../vendor/preact.js";
import { Fault, ask } from "../../api.js";
import { Facts, Notice, Section } from "../../parts/basics.js";
import { withCode } from "../../parts/text.js";
import { bytes, count, measure, plural, span } from "../../words.js";

const AFTER_MS = 300;
const AGAIN_MS = 1_500;

/**
 * The service's answer to the newest request; answers to older ones are dropped.
 * @param {any} request Null: nothing to ask yet.
 * @returns {{data: any, fault: Fault | null, busy: boolean}} `data` is the last good answer.
 */
export function useEstimate(request) {
  const [found, setFound] = useState(
    /** @type {{data: any, fault: Fault | null, busy: boolean}} */ ({ data: null, fault: null, busy: false }),
  );
  const asked = request && JSON.stringify(request);
  useEffect(() => {
    if (!asked) {
      setFound({ data: null, fault: null, busy: false });
      return undefined;
    }
    const gone = new AbortController();
    /** @type {ReturnType<typeof setTimeout>} */
    let timer;
    const look = () =>
      ask("POST", "/v1/fine_tuning/estimate", { json: JSON.parse(asked), signal: gone.signal })
        .then((answer) => answer.json())
        .then(
          (data) => gone.signal.aborted || setFound({ data, fault: null, busy: false }),
          (fault) => {
            if (gone.signal.aborted) return;
            setFound((was) => ({ data: was.data, fault, busy: false }));
            const passes = fault.status >= 500 || [0, 429].includes(fault.status);
            if (passes || fault.code === "file_not_checked") timer = setTimeout(look, AGAIN_MS);
          },
        );
    setFound((was) => ({ ...was, busy: true }));
    timer = setTimeout(look, AFTER_MS);
    return () => {
      clearTimeout(timer);
      gone.abort();
    };
  }, [asked]);
  return found;
}

/** @param {{estimate: ReturnType<typeof useEstimate>, lacks: string | null}} props */
export function Estimate({ estimate, lacks }) {
  const { data, fault, busy } = estimate;
  return html`
    <${Section} title="4. Estimate" id="estimate" actions=${busy && data && html`<span class="quiet small">Estimating …</span>`}>
      <div class="live" aria-busy=${busy}>
        ${lacks && html`<p class="quiet">${lacks}</p>`}
        ${fault && html`<${Notice} tone="bad"><p><bdi>${withCode(fault.message)}</bdi></p></${Notice}>`}
        ${data && !fault && html`<${Found} data=${data} />`}
        ${!data && !fault && !lacks && html`<p class="quiet" role="status">Estimating …</p>`}
      </div>
    </${Section}>
  `;
}

/** @param {[number, number] | null} range */
const time = (range) => (range && range[1] < 1 ? "under a second" : span(range));

/** @param {any} device */
const timed = ({ seconds, seconds_from: from }) =>
  `${time(seconds)}, ${from === "history" ? "as your earlier jobs took" : "by a model of the device"}`;

/** @param {any} plan */
function planned({ peak_bytes: peak, quantization, micro_tokens: tokens, checkpointing, recomputed_layers: layers, divided, gpus }) {
  const base = quantization === "none" ? "base not quantized" : `base in ${quantization}`;
  const again = checkpointing ? `, activations${layers ? ` of the first ${layers} layers` : ""} computed again` : "";
  const parts = divided ? ` divided among ${gpus} GPUs` : "";
  return `${bytes(peak)} at most${gpus > 1 ? " on each GPU" : ""}, ${base}${parts}, up to ${plural(tokens, "token")} at once${again}`;
}

/** Whether a job fits a device, in sign, word and colour. */
export function Fits({ device }) {
  if (device.fits == null) return html`<span class="quiet">? not known if it fits</span>`;
  return device.fits ? html`<span class="good">✓ fits</span>` : html`<span class="bad">✕ does not fit</span>`;
}

function Found({ data }) {
  /** @type {[number, number][]} */
  const times = data.devices.filter((device) => device.seconds).map((device) => device.seconds);
  /** @type {[number, number] | null} */
  const range = times.length
    ? [Math.min(...times.map(([least]) => least)), Math.max(...times.map(([, most]) => most))]
    : null;
  return html`
    <p class="unseen" role="status">${plural(data.steps, "step")}, ${`time ${time(range)}`}</p>
    <${Facts} pairs=${[
      ["Optimizer steps", count(data.steps)],
      ["Time", time(range)],
      ["Rows per epoch", count(data.rows)],
      ["Tokens per epoch", `about ${count(data.tokens)}`],
      ["Longest row", `about ${plural(data.longest_row_tokens, "token")}`],
      ["Peak learning rate", measure(data.learning_rate)],
    ]} />
    <p class="small quiet">Tokens are estimated from bytes; with a model, step 1 counts them.</p>
    ${data.warnings.map((said) => html`<${Notice} tone="warn"><p><bdi>${said}</bdi></p></${Notice}>`)}
    <h3>Devices</h3>
    ${data.devices.length === 0 &&
    html`<p>No worker has shown itself yet. The job can be started, and waits until one has.</p>`}
    <ul class="devices">
      ${data.devices.map(
        (device) => html`<li>
          <p><strong>${device.device ?? "A worker"}</strong> <span class="quiet">${bytes(device.memory_bytes)}</span>
            ${" "}<${Fits} device=${device} /></p>
          ${device.plan && html`<p class="small">${planned(device.plan)}</p>`}
          <p class="small">${device.seconds ? timed(device) : device.fits && "Its time is not known."}</p>
          ${device.reason && html`<p class="small"><bdi>${device.reason}</bdi></p>`}
        </li>`,
      )}
    </ul>
  `;
}
