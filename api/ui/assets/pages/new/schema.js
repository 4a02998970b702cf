// @ts-check
/** The settings of a job, as the service describes them in /openapi.json: none is listed here. */

/**
 * @typedef {object} Setting
 * @property {string} path `training.max_length`
 * @property {"hyperparameters" | "training" | "lora"} place
 * @property {string} name
 * @property {string} words What it means, with names in backquotes.
 * @property {"choice" | "truth" | "whole" | "number" | "names" | "text"} kind
 * @property {string[]} choices
 * @property {string} range In words; empty without bounds.
 * @property {boolean} long Whether it may be a text of many lines.
 */

// They are asked for with the data.
const ELSEWHERE = new Set(["columns", "validation_split"]);
// To write what `quantization` says.
const OTHER_WAYS = new Set(["load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type"]);
const SECOND_NAME = /^The same as /;
const LONG = 4_096;

/**
 * @param {any} openapi
 * @param {string} method
 * @param {Record<string, string>} given By their paths: one that is given is shown, whatever its name.
 * @returns {Setting[]}
 */
export function settingsOf(openapi, method, given) {
  const schemas = openapi.components.schemas;
  const job = schemas.CreateJob.properties;
  const method_ = named(schemas, named(schemas, job.method)?.properties[method]);
  const hyperparameters = named(schemas, method_?.properties.hyperparameters) ?? named(schemas, job.hyperparameters);
  return [
    ...of("hyperparameters", hyperparameters, given),
    ...of("lora", named(schemas, job.lora), given),
    ...of("training", named(schemas, job.training), given),
  ];
}

/** The validation split, which is asked for with the data. @param {any} openapi @returns {Setting} */
export const splitOf = (openapi) =>
  setting("training", "validation_split", openapi.components.schemas.TrainingSettings.properties.validation_split);

/** @param {any} openapi @returns {{name: string, words: string}[]} */
export function exportFormats(openapi) {
  const schema = openapi.components.schemas.ExportSettings.properties.format;
  const said = schema.description ?? "";
  return schema.enum.map((/** @type {string} */ name) => ({
    name,
    words: new RegExp(`\`${name}\`: (.*?)\\.(?= \`|$)`).exec(said.replace(/\s+/g, " "))?.[1] ?? "",
  }));
}

/** The object that a schema is, or refers to beside null. @param {any} schemas @param {any} schema */
function named(schemas, schema) {
  for (const one of schema?.anyOf ?? [schema]) {
    if (one?.$ref) return schemas[one.$ref.split("/").at(-1)];
  }
  return null;
}

/** @param {Setting["place"]} place @param {any} schema @param {Record<string, string>} given */
const of = (place, schema, given) =>
  Object.entries(schema.properties)
    .filter(([name]) => !ELSEWHERE.has(name))
    .filter(([name, of]) => `${place}.${name}` in given || !(OTHER_WAYS.has(name) || SECOND_NAME.test(of.description ?? "")))
    .map(([name, of]) => setting(place, name, of));

/** @param {Setting["place"]} place @param {string} name @param {any} schema @returns {Setting} */
function setting(place, name, schema) {
  const kinds = (schema.anyOf ?? [schema]).filter((one) => one.type !== "null" && one.const !== "auto");
  const [first] = kinds;
  const words = (schema.description ?? "").replace(/\s+/g, " ").trim();
  const common = { path: `${place}.${name}`, place, name, words, choices: [], range: rangeOf(first), long: first.maxLength > LONG };
  if (first.enum) {
    return { ...common, kind: "choice", choices: first.enum.filter((/** @type {string} */ one) => one !== "auto") };
  }
  if (kinds.some((one) => one.type === "array")) return { ...common, kind: "names" };
  const kind = /** @type {Record<string, Setting["kind"]>} */ ({ boolean: "truth", integer: "whole", number: "number" })[first.type];
  return { ...common, kind: kind ?? "text" };
}

/** @param {any} schema */
function rangeOf(schema) {
  const least = schema.minimum ?? schema.ge;
  const above = schema.exclusiveMinimum ?? schema.gt;
  const most = schema.maximum ?? schema.le;
  const below = schema.exclusiveMaximum ?? schema.lt;
  const low = least != null ? `from ${least}` : above != null ? `above ${above}` : "";
  // A bound that no model reaches says nothing.
  const high = most != null ? `to ${most}` : below != null && below < 2 ** 31 ? `below ${below}` : "";
  return [low, high].filter(Boolean).join(low && high.startsWith("below") ? ", " : " ");
}

const NAMES = /^[\w.]+(\s*,\s*[\w.]+)*$/;

/** A setting's value out of what was typed. @param {Setting} setting @param {string} typed @returns {any} */
export function written({ kind }, typed) {
  const text = typed.trim();
  if (kind === "truth") return text === "true";
  if (kind === "names") return text !== "all-linear" && NAMES.test(text) ? text.split(/\s*,\s*/) : text;
  if (kind !== "whole" && kind !== "number") return typed;
  const number = Number(text);
  return text !== "" && Number.isFinite(number) ? number : typed;
}

/**
 * What a refusal says of one field.
 * @param {import("../../api.js").Fault | null} fault
 * @param {string} path
 * @returns {string | null}
 */
export function wrongAt(fault, path) {
  if (!fault) return null;
  const plain = (/** @type {string} */ place) => place.replace(/^method\.\w+\.(?=hyperparameters\.)/, "");
  for (const sentence of fault.message.split(/(?<=\.) (?=[a-z_]+(?:\.[\w.[\]]+)*: )/)) {
    const [, place, said] = /^([a-z_]+(?:\.[\w.[\]]+)*): (.*)$/s.exec(sentence) ?? [];
    if (place && plain(place) === path) return said;
  }
  return fault.param && plain(fault.param) === path ? fault.message : null;
}
