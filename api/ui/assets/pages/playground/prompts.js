// @ts-check
/** Questions from the validation file of a job: its first rows. */
import { html, useEffect, useState } from "../../vendor/preact.js";
import { ask } from "../../api.js";
import { href } from "../../router.js";
import { FaultNotice, Section } from "../../parts/basics.js";
import { count } from "../../words.js";

const MOST_ROWS = 20;
const MOST_CHARACTERS = 1 << 18;

/** @typedef {import("../../answers.js").Question & {line: number}} Prompt */

/**
 * @param {{file: string, plain: boolean, busy: boolean, put: (prompt: Prompt) => void,
 *   askAll: (prompts: Prompt[]) => void}} props
 */
export function Prompts({ file, plain, busy, put, askAll }) {
  const { prompts, fault } = usePrompts(file);
  if (fault) return html`<${FaultNotice} fault=${fault} />`;
  const fitting = prompts?.filter((prompt) => plain === !prompt.messages.length) ?? [];
  const from = html`<a href=${href(`/files/${file}`)}>the job's validation file</a>`;
  return html`
    <${Section} title="Questions from the data" actions=${fitting.length > 0 && html`<button type="button"
      class="small" disabled=${busy} onClick=${() => askAll(fitting)}>Ask all ${count(fitting.length)}</button>`}>
      ${!prompts
        ? html`<p class="quiet" role="status">Loading …</p>`
        : fitting.length
          ? html`<p class="small quiet">The first rows of ${from}. Each stands by itself.</p>
            <ul class="prompts">${fitting.map((prompt) => html`<li key=${prompt.line}>
              <button type="button" class="small" disabled=${busy} aria-label=${`Ask row ${prompt.line}`}
                onClick=${() => put(prompt)}>Ask</button>
              <span class="small"><bdi>${shortened(prompt.text)}</bdi></span>
            </li>`)}</ul>`
          : html`<p class="quiet">The first rows of ${from} hold no ${plain ? "texts with a prompt" : "chats"} as JSON lines.</p>`}
    </${Section}>
  `;
}

/** @param {string} text */
const shortened = (text) => (text.length > 200 ? `${text.slice(0, 200)} …` : text);

/** @param {string} file Its id. */
function usePrompts(file) {
  const [state, setState] = useState(/** @type {{prompts: Prompt[] | null, fault: any}} */ ({ prompts: null, fault: null }));
  useEffect(() => {
    const gone = new AbortController();
    setState({ prompts: null, fault: null });
    ask("GET", `/v1/files/${encodeURIComponent(file)}/content`, { signal: gone.signal })
      .then(beginning)
      .then(
        (text) => setState({ prompts: promptsIn(text), fault: null }),
        (fault) => gone.signal.aborted || setState({ prompts: null, fault }),
      );
    return () => gone.abort();
  }, [file]);
  return state;
}

/** Its first lines, whole; the rest is not fetched. @param {Response} answer */
async function beginning(answer) {
  if (!answer.body) return "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    while (text.length < MOST_CHARACTERS) {
      const { value, done } = await reader.read();
      if (done) return text;
      text += value;
    }
    return text.slice(0, text.lastIndexOf("\n") + 1);
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {string} text @returns {Prompt[]} */
function promptsIn(text) {
  return text
    .split("\n")
    .slice(0, MOST_ROWS)
    .flatMap((line, i) => {
      try {
        return line.trim() ? promptIn(JSON.parse(line), i + 1) : [];
      } catch {
        return [];
      }
    });
}

/** @param {any} row @param {number} line @returns {Prompt[]} None: it has another form. */
function promptIn(row, line) {
  const asked = { line, apart: true, tools: row.tools ?? row.input?.tools ?? null };
  const messages = row.messages ?? row.input?.messages;
  if (Array.isArray(messages)) {
    // What it is trained to say last.
    const last = row.messages ? messages.findLastIndex((message) => message.role === "assistant") : messages.length;
    const question = messages.slice(0, last < 0 ? messages.length : last);
    const expected = textOf(row.messages ? messages[last] : row.preferred_output?.[0]);
    return question.length ? [{ ...asked, messages: question, text: spoken(question), expected }] : [];
  }
  if (typeof row.prompt === "string") {
    return [{ ...asked, messages: [], text: row.prompt, expected: row.completion ?? null }];
  }
  return [];
}

/** @param {any[]} messages */
const spoken = (messages) =>
  messages.length === 1 ? textOf(messages[0]) ?? "" : messages.map((message) => `${message.role}: ${textOf(message)}`).join("\n");

/** @param {any} message @returns {string | null} */
function textOf(message) {
  if (!message) return null;
  if (typeof message.content === "string") return message.content;
  return JSON.stringify(message.content ?? message.tool_calls ?? "");
}
