// @ts-check
/** The same request, in the words of several programs. */

/**
 * A text between double quotes, as JSON, JavaScript, Python and YAML read it; what nobody sees or
 * what turns the direction of writing is spelt out.
 * @param {string} text @param {"python" | "json"} [language]
 */
export function quoted(text, language = "json") {
  return JSON.stringify(text).replace(/[\p{Cf}\p{Zl}\p{Zp}\u007f-\u009f]/gu, (sign) => {
    const point = /** @type {number} */ (sign.codePointAt(0));
    if (point > 0xffff && language === "python") return `\\U${point.toString(16).padStart(8, "0")}`;
    return [...Array(sign.length).keys()]
      .map((i) => `\\u${sign.charCodeAt(i).toString(16).padStart(4, "0")}`)
      .join("");
  });
}

/** @param {string} text For a shell, as one word. */
const word = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

/**
 * @param {any} value @param {{language: "python" | "node" | "json", indent?: string}} how
 * @returns {string}
 */
function literal(value, { language, indent = "" }) {
  const deeper = `${indent}    `;
  if (value === null) return language === "python" ? "None" : "null";
  if (typeof value === "boolean" && language === "python") return value ? "True" : "False";
  if (typeof value === "string") return quoted(value, language === "python" ? "python" : "json");
  if (typeof value !== "object") return String(value);
  const within = { language, indent: deeper };
  const list = Array.isArray(value);
  const parts = list
    ? value.map((each) => literal(each, within))
    : Object.entries(value).map(([name, each]) => `${key(name, language)}: ${literal(each, within)}`);
  const [open, close] = list ? "[]" : "{}";
  if (!parts.length) return open + close;
  const short = `${open}${parts.join(", ")}${close}`;
  if (short.length <= 72 && !short.includes("\n")) return short;
  return `${open}\n${parts.map((part) => `${deeper}${part}`).join(",\n")}\n${indent}${close}`;
}

/** @param {string} name @param {string} language */
const key = (name, language) => (language === "node" && /^[a-z_]\w*$/i.test(name) ? name : quoted(name));

// What OpenAI's SDK for Python has no argument for.
const OURS = ["lora", "training", "exports"];

/**
 * @param {any} request What is sent to `POST /v1/fine_tuning/jobs`.
 * @param {string} base The address of the API, with `/v1`.
 */
export function python(request, base) {
  const named = Object.entries(request).filter(([name]) => !OURS.includes(name));
  const ours = Object.fromEntries(Object.entries(request).filter(([name]) => OURS.includes(name)));
  const given = Object.keys(ours).length ? [...named, ["extra_body", ours]] : named;
  const lines = given.map(
    ([name, value]) => `    ${name}=${literal(value, { language: "python", indent: "    " })},`,
  );
  return `import os

from openai import OpenAI

client = OpenAI(base_url=${quoted(base)}, api_key=os.environ["TUNERY_KEY"])
job = client.fine_tuning.jobs.create(
${lines.join("\n")}
)
print(job.id)
`;
}

/** @param {any} request @param {string} base */
export const node = (request, base) => `import OpenAI from "openai";

const client = new OpenAI({ baseURL: ${quoted(base)}, apiKey: process.env.TUNERY_KEY });
const job = await client.fineTuning.jobs.create(${literal(request, { language: "node" })});
console.log(job.id);
`;

/** @param {any} request @param {string} base */
export const curl = (request, base) => posting(`${base}/fine_tuning/jobs`, request);

/** @param {string} to @param {any} request */
const posting = (to, request) => `curl ${word(to)} \\
  -H "Authorization: Bearer $TUNERY_KEY" \\
  -H "Content-Type: application/json" \\
  -d ${word(literal(request, { language: "json" }))}
`;

/** @param {string} path @param {any} request What a model is asked. @param {string} origin */
export const askingCurl = (path, request, origin) => posting(`${origin}${path}`, request);

/** @param {string} path @param {any} request What a model is asked. @param {string} origin */
export function askingPython(path, request, origin) {
  const chats = path.includes("chat");
  const lines = Object.entries(request).map(
    ([name, value]) => `    ${name}=${literal(value, { language: "python", indent: "    " })},`,
  );
  return `import os

from openai import OpenAI

client = OpenAI(base_url=${quoted(`${origin}/v1`)}, api_key=os.environ["TUNERY_KEY"])
answer = client.${chats ? "chat.completions" : "completions"}.create(
${lines.join("\n")}
)
print(answer.choices[0].${chats ? "message.content" : "text"})
`;
}

/**
 * @param {any} request @param {string} base
 * @param {{training: string, validation: string | null, columns?: Record<string, string>}} files What
 *   the files are called here, and the training file's names for the fields of a row.
 */
export function command(request, base, files) {
  const { model, training_file, validation_file, method, ...rest } = request;
  const kind = method?.type ?? "supervised";
  const flags = [`--model ${word(model)}`];
  if (validation_file) flags.push(`--validation ${word(files.validation ?? "validation.jsonl")}`);
  if (files.columns) flags.push(`--columns ${word(literal(files.columns, { language: "json" }))}`);
  if (kind !== "supervised") flags.push(`--method ${kind}`);
  const settings = [
    ...leaves({ [kind]: method?.[kind] ?? {} }, "method."),
    ...Object.entries(rest).flatMap(([name, value]) =>
      name === "training" ? leaves(value) : name === "lora" || name === "hyperparameters" ? leaves(value, `${name}.`) : [[name, value]],
    ),
  ];
  for (const [name, value] of settings) {
    flags.push(`--set ${word(`${name}=${literal(value, { language: "json" })}`)}`);
  }
  const fetched = [[training_file, files.training], [validation_file, files.validation]]
    .filter(([id]) => id)
    .map(([id, name]) => `tunery files download ${id} --into ${word(name ?? "")}`);
  return `export TUNERY_URL=${word(base)}  # and TUNERY_KEY
${fetched.join("\n")}
tunery train ${word(files.training)} \\
  ${flags.join(" \\\n  ")}
`;
}

/** @param {any} value @param {string} [before] @returns {[string, any][]} */
const leaves = (value, before = "") =>
  Object.entries(value ?? {}).flatMap(([name, each]) =>
    each && typeof each === "object" && !Array.isArray(each)
      ? leaves(each, `${before}${name}.`)
      : [[`${before}${name}`, each]],
  );
