// @ts-check
/** What a job's settings became and why, and what was expected of it beside what was measured. */
import { html } from "../../vendor/preact.js";
import { Section, Table } from "../../parts/basics.js";
import { bytes, count, duration, measure, plural, span } from "../../words.js";
import { secondsTaken } from "./state.js";

// Those that most people look for; the others are folded.
const FIRST = [
  "finetuning_type",
  "n_epochs",
  "batch_size",
  "learning_rate",
  "max_length",
  "lora.r",
  "lora.alpha",
  "quantization",
  "lr_scheduler",
];

/**
 * @param {any} job
 * @returns {{name: string, value: any, why: string | null}[]} All that have a value.
 */
function settingsOf(job) {
  const { training, lora, reasons } = job.tunery;
  const named = {
    ...(training ?? {}),
    ...job.method[job.method.type]?.hyperparameters,
    ...Object.fromEntries(Object.entries(lora ?? {}).map(([name, value]) => [`lora.${name}`, value])),
  };
  const why = (/** @type {string} */ name) =>
    reasons?.[name] ?? (name.startsWith("lora.") ? reasons?.lora : undefined) ?? null;
  return Object.entries(named)
    .filter(([, value]) => value != null)
    .map(([name, value]) => ({ name, value, why: why(name) }));
}

export function Settings({ job }) {
  const all = settingsOf(job);
  const first = FIRST.flatMap((name) => all.filter((setting) => setting.name === name));
  const others = all.filter((setting) => !first.includes(setting));
  const columns = [
    { name: "Setting", cell: (/** @type {any} */ row) => html`<code>${row.name}</code>` },
    { name: "Value", cell: (/** @type {any} */ row) => html`<bdi>${shown(row, job)}</bdi>` },
    {
      name: "Why",
      cell: (/** @type {any} */ row) =>
        row.why
          ? html`<span><span class="auto">auto</span> <bdi>${row.why}</bdi></span>`
          : html`<span class="quiet">as requested, or the default</span>`,
    },
  ];
  const id = (/** @type {any} */ row) => row.name;
  return html`
    <${Section} title="Settings">
      ${all.length
        ? html`<${Table} label="Settings" columns=${columns} rows=${first} id=${id} />
          ${others.length > 0 && html`<details>
            <summary>${plural(others.length, "more setting")}</summary>
            <${Table} label="More settings" columns=${columns} rows=${others} id=${id} />
          </details>`}`
        : html`<p class="quiet">They are decided when the files are checked.</p>`}
    </${Section}>
  `;
}

/** @param {{name: string, value: any}} setting @param {any} job */
function shown({ name, value }, job) {
  const planned = job.tunery.plan?.quantization;
  if (name === "quantization" && value === "auto" && planned) return `auto, which became ${planned}`;
  if (typeof value === "number") return Number.isInteger(value) ? count(value) : measure(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

export function Expected({ job, curves, attempts }) {
  const { estimate, plan, progress } = job.tunery;
  const columns = curves?.columns ?? {};
  const memory = highest(columns.memory_bytes);
  const rows = [
    {
      name: "Time on a device",
      expected: estimate?.seconds ? span(estimate.seconds) : "not known",
      measured: attempts?.length ? duration(secondsTaken(attempts)) : "–",
    },
    {
      name: "Steps",
      expected: estimate ? count(estimate.steps) : "–",
      measured: progress ? `${count(progress.step)} of ${count(progress.total_steps)}` : "–",
    },
    {
      name: "Tokens per epoch",
      expected: estimate ? `about ${count(estimate.tokens)}` : "–",
      measured: tokensOfEpoch(job, columns),
    },
    {
      name: "Tokens per second",
      expected: "–",
      measured: median(columns.tokens_per_second) == null ? "–" : count(median(columns.tokens_per_second)),
    },
    {
      name: "Memory",
      expected: plan ? bytes(plan.peak_bytes) : least(job.tunery.memory_bytes),
      measured: memory == null ? "–" : bytes(memory),
    },
  ];
  return html`
    <${Section} title="Expected and measured">
      <${Table} label="Expected and measured" rows=${rows} id=${(/** @type {any} */ row) => row.name} columns=${[
        { name: "What", cell: (row) => row.name },
        { name: "Expected", cell: (row) => row.expected },
        { name: "Measured", cell: (row) => row.measured },
      ]} />
      ${plan && html`<p class="small quiet">${planInWords(plan)}</p>`}
    </${Section}>
  `;
}

const BASES = { nf4: "the base in NF4", fp4: "the base in FP4", int8: "the base in int8", none: "the base not quantized" };

/** @param {any} plan */
function planInWords(plan) {
  const base = BASES[/** @type {keyof typeof BASES} */ (plan.quantization)] ?? plan.quantization;
  const kept = plan.dequantized ? ", kept dequantized" : "";
  const which = plan.recomputed_layers ? ` of the first ${count(plan.recomputed_layers)} layers` : "";
  const again = plan.checkpointing ? `, activations${which} computed again to save memory` : "";
  const parts = plan.divided ? `, divided among ${count(plan.gpus)} GPUs` : "";
  return `The plan: ${base}${kept}${parts}, up to ${count(plan.micro_tokens)} tokens at once${again}.`;
}

/** @param {Record<string, number> | null} needs */
const least = (needs) =>
  needs ? Object.entries(needs).map(([kind, size]) => `${bytes(size)} on a ${kind === "fp32" ? "CPU" : "GPU"}`).join(", ") : "–";

/** @param {any} job @param {Record<string, (number | null)[]>} columns */
function tokensOfEpoch(job, columns) {
  const epochs = columns.epoch?.at(-1);
  return epochs && job.trained_tokens ? `${count(job.trained_tokens / epochs)} trained on` : "–";
}

/** @param {(number | null)[]} [values] */
const highest = (values) => {
  const there = (values ?? []).filter((v) => v != null);
  return there.length ? there.reduce((one, other) => Math.max(one, other)) : null;
};

/** @param {(number | null)[]} [values] @returns {number | null} */
const median = (values) => {
  const there = /** @type {number[]} */ ((values ?? []).filter((v) => v != null)).sort((a, b) => a - b);
  return there.length ? there[Math.floor(there.length / 2)] : null;
};

/** @param {number} share */
export const percent = (share) => `${Number((100 * share).toPrecision(3))} %`;
