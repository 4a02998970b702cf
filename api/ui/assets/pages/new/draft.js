// @ts-check
/** The job in the making: as it is filled in, as it stands in the address, and as it is asked for. */
import { useEffect, useRef, useState } from "../../vendor/preact.js";
import { go } from "../../router.js";
import { written } from "./schema.js";

const ADDRESS_AFTER_MS = 400;

/**
 * @typedef {object} Draft
 * @property {string} file Id of the training file.
 * @property {string} validation Id of the validation file.
 * @property {string} model
 * @property {string} method Empty: what the data and the model say.
 * @property {string} suffix
 * @property {string} seed
 * @property {Record<string, string>} settings As typed, by their places: `hyperparameters.n_epochs`,
 *   `training.max_length`, `lora.r`. None is empty.
 * @property {[string, string][]} metadata
 * @property {string[]} exports Formats, some with options behind them.
 * @property {Record<string, string>} wandb `project`, `name`, `entity`, `tags` by commas.
 */

/** @type {Draft} */
const EMPTY = {
  ...{ file: "", validation: "", model: "", method: "", suffix: "", seed: "" },
  ...{ settings: {}, metadata: [], exports: [], wandb: {} },
};

/** @type {("file" | "validation" | "model" | "method" | "suffix" | "seed")[]} */
const WORDS = ["file", "validation", "model", "method", "suffix", "seed"];
const SETTING = /^(hyperparameters|training|lora)\./;

/** @param {URLSearchParams} query @returns {Draft} */
export function fromAddress(query) {
  /** @type {Draft} */
  const draft = { ...EMPTY, settings: {}, metadata: [], exports: query.getAll("export"), wandb: {} };
  for (const word of WORDS) draft[word] = query.get(word) ?? "";
  for (const [name, value] of query) {
    const [place, ...rest] = name.split(".");
    if (SETTING.test(name) && value) draft.settings[name] = value;
    else if (place === "metadata") draft.metadata.push([rest.join("."), value]);
    else if (place === "wandb") draft.wandb[rest[0]] = value;
  }
  return draft;
}

/** @param {Draft} draft @returns {Record<string, any>} */
export function toAddress(draft) {
  /** @type {Record<string, any>} */
  const query = {};
  for (const word of WORDS) query[word] = draft[word];
  Object.assign(query, draft.settings, { export: draft.exports });
  for (const [key, value] of draft.metadata) if (key) query[`metadata.${key}`] = value;
  for (const [name, value] of Object.entries(draft.wandb)) query[`wandb.${name}`] = value;
  return query;
}

/**
 * The draft, which is in the address, too: a reload, a link or the back button leads back to it.
 * @param {URLSearchParams} query
 * @returns {[Draft, (change: Partial<Draft>) => void]}
 */
export function useDraft(query) {
  const [draft, setDraft] = useState(() => fromAddress(query));
  const ours = useRef(query.toString());
  const touched = useRef(false);
  const there = query.toString();
  useEffect(() => {
    if (there === ours.current) return; // we wrote it
    ours.current = there;
    touched.current = false;
    setDraft(fromAddress(query));
  }, [there]);
  useEffect(() => {
    if (!touched.current) return undefined;
    // Not at each key: browsers refuse more than a few changes of the address in a second.
    const timer = setTimeout(() => {
      const words = toAddress(draft);
      const next = search(words);
      if (next === ours.current) return;
      ours.current = next;
      go("/new", words, { replace: true });
    }, ADDRESS_AFTER_MS);
    return () => clearTimeout(timer);
  }, [draft]);
  const change = (/** @type {Partial<Draft>} */ part) => {
    touched.current = true;
    setDraft((was) => ({ ...was, ...part }));
  };
  return [draft, change];
}

/** @param {Record<string, any>} words As `href` writes them. */
function search(words) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(words)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one) found.append(name, one);
  }
  return found.toString();
}

/**
 * The job's request. What cannot be a number goes as it was typed: the service says what is wrong.
 * @param {Draft} draft
 * @param {string} method
 * @param {import("./schema.js").Setting[]} settings
 */
export function requestOf(draft, method, settings) {
  /** @type {Record<string, Record<string, any>>} */
  const places = { hyperparameters: {}, training: {}, lora: {} };
  for (const setting of settings) {
    const typed = draft.settings[setting.path];
    if (typed) places[setting.place][setting.name] = written(setting, typed);
  }
  const { hyperparameters, training, lora } = places;
  const metadata = Object.fromEntries(draft.metadata.filter(([key, value]) => key || value));
  return {
    model: draft.model,
    training_file: draft.file,
    ...(draft.validation && { validation_file: draft.validation }),
    ...((method !== "supervised" || filled(hyperparameters)) && {
      method: { type: method, ...(filled(hyperparameters) && { [method]: { hyperparameters } }) },
    }),
    ...(draft.suffix && { suffix: draft.suffix }),
    ...(draft.seed && { seed: whole(draft.seed) }),
    ...(filled(metadata) && { metadata }),
    ...(filled(lora) && { lora }),
    ...(filled(training) && { training }),
    ...(draft.exports.length && { exports: draft.exports.map(readExport) }),
    ...(filled(draft.wandb) && { integrations: [{ type: "wandb", wandb: wandbOf(draft.wandb) }] }),
  };
}

/** @param {object} of */
const filled = (of) => Object.keys(of).length > 0;

/** @param {string} typed */
const whole = (typed) => (/^\d{1,15}$/.test(typed.trim()) ? Number(typed) : typed);

/** @param {Record<string, string>} wandb */
function wandbOf({ tags, ...rest }) {
  const found = (tags ?? "").split(",").map((tag) => tag.trim()).filter(Boolean);
  return { ...rest, ...(found.length && { tags: found }) };
}

/**
 * What to fill in to ask for the same again.
 * @param {any} asked A job's request, as it was sent.
 * @returns {Draft}
 */
export function fromRequest(asked) {
  const method = asked.method?.type ?? "supervised";
  const places = {
    hyperparameters: asked.hyperparameters ?? asked.method?.[method]?.hyperparameters ?? {},
    training: asked.training ?? {},
    lora: asked.lora ?? {},
  };
  /** @type {Record<string, string>} */
  const settings = {};
  for (const [place, values] of Object.entries(places)) {
    for (const [name, value] of Object.entries(values)) {
      // `columns` are the file's own by now.
      if (value === null || value === "auto" || name === "columns") continue;
      settings[`${place}.${name}`] = Array.isArray(value) ? value.join(", ") : String(value);
    }
  }
  const wandb = Object.entries(asked.integrations?.[0]?.wandb ?? {}).filter(([, value]) => value?.length);
  return {
    file: asked.training_file,
    validation: asked.validation_file ?? "",
    model: asked.model,
    method: method === "supervised" ? "" : method,
    suffix: asked.suffix ?? "",
    seed: String(asked.seed ?? ""),
    settings,
    metadata: Object.entries(asked.metadata ?? {}),
    exports: (asked.exports ?? []).map((one) => (typeof one === "string" ? one : writtenExport(one))),
    wandb: Object.fromEntries(wandb.map(([name, value]) => [name, String(value)])),
  };
}

/** One with settings of its own is kept as `merged onto=original dtype=fp16`. @param {any} asked */
function writtenExport({ format, ...options }) {
  const own = Object.entries(options).filter(([, value]) => value !== null);
  return [format, ...own.map(([name, value]) => `${name}=${value}`)].join(" ");
}

/** @param {string} text */
function readExport(text) {
  const [format, ...options] = text.split(" ");
  return options.length ? { format, ...Object.fromEntries(options.map((one) => one.split("="))) } : format;
}
