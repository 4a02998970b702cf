// @ts-check
/** Asking models: one question to several at once, and their answers as they come. */
import { Fault, ask, messages } from "./api.js";

/**
 * @typedef {{name: string, arguments: string}} Call
 * @typedef {object} Answer
 * @property {string} model
 * @property {"waiting" | "saying" | "complete" | "stopped" | "failed"} state
 * @property {string} text
 * @property {Call[]} calls Functions that the model calls.
 * @property {string | null} reason Why it ended.
 * @property {{prompt_tokens: number, completion_tokens: number} | null} usage
 * @property {number | null} first Milliseconds until its first word.
 * @property {number | null} took Milliseconds until its end.
 * @property {Fault | null} fault
 *
 * @typedef {object} Question
 * @property {string} text What is shown of it.
 * @property {any[]} messages What it adds to a conversation.
 * @property {boolean} apart Whether it stands by itself: it goes on from nothing.
 * @property {any[] | null} tools Functions that come with it, in the place of the settings' own.
 * @property {string | null} expected The answer in the data, if it is from there.
 *
 * @typedef {Question & {number: number, answers: Answer[]}} Turn
 * @typedef {{system: string, plain: boolean, sampling: Record<string, any>}} How `plain`: the question
 *   is a text to go on with, without a chat template.
 */

const CHAT = "/v1/chat/completions";
const TEXT = "/v1/completions";

/** @param {string} model @returns {Answer} */
const unanswered = (model) => ({
  ...{ model, state: "waiting", text: "", calls: [], reason: null },
  ...{ usage: null, first: null, took: null, fault: null },
});

/** What was asked and answered so far. Each model goes on from its own answers. */
export class Conversation {
  /** @param {() => void} changed Called whenever there is something else to show. */
  constructor(changed) {
    /** @type {Turn[]} */
    this.turns = [];
    this.changed = changed;
    this.open = 0;
    this.until = new AbortController();
  }

  get busy() {
    return this.open > 0;
  }

  /**
   * Asks all of them, and waits for the ends of their answers.
   * @param {Question} question @param {string[]} models @param {How} how
   */
  async ask(question, models, how) {
    const number = this.turns.length + 1;
    const turn = { ...question, number, answers: models.map(unanswered) };
    this.turns = [...this.turns, turn];
    await Promise.all(turn.answers.map((answer) => this.answer(turn, answer, how)));
  }

  /**
   * One question after the other, until somebody stops it.
   * @param {Question[]} questions @param {string[]} models @param {How} how
   */
  async askAll(questions, models, how) {
    const { signal } = this.until;
    for (const question of questions) {
      if (signal.aborted) return;
      await this.ask(question, models, how);
    }
  }

  /** Has the model answer that question anew. @param {Turn} turn @param {Answer} answer @param {How} how */
  again(turn, answer, how) {
    Object.assign(answer, unanswered(answer.model));
    return this.answer(turn, answer, how);
  }

  /** Ends the requests, and so the work on them. What was said stays. */
  stop() {
    this.until.abort();
    this.until = new AbortController();
  }

  reset() {
    this.stop();
    this.turns = [];
    this.changed();
  }

  /** @param {Turn} turn @param {Answer} answer @param {How} how */
  async answer(turn, answer, how) {
    const { signal } = this.until;
    const began = performance.now();
    this.open += 1;
    this.changed();
    try {
      const [path, request] = requestOf(this.turns, turn, answer.model, how);
      for await (const chunk of chunks(path, request, signal)) {
        take(answer, chunk);
        if (answer.state === "waiting" && (answer.text || answer.calls.length)) {
          answer.state = "saying";
          answer.first = performance.now() - began;
        }
        this.changed();
      }
      answer.state = "complete";
    } catch (fault) {
      answer.state = signal.aborted ? "stopped" : "failed";
      if (!signal.aborted) answer.fault = fault instanceof Fault ? fault : new Fault(0, { message: String(fault) }, null);
    } finally {
      answer.took = performance.now() - began;
      this.open -= 1;
      this.changed();
    }
  }
}

/**
 * @param {Turn[]} turns @param {Turn} turn @param {string} model @param {How} how
 * @returns {[path: string, request: any]}
 */
export function requestOf(turns, turn, model, how) {
  const { system, plain, sampling } = how;
  const { tools: own, max_completion_tokens: most, ...rest } = sampling;
  if (plain) return [TEXT, { model, prompt: turn.text, ...(most == null ? {} : { max_tokens: most }), ...rest }];
  const before = turn.apart ? [] : turns.slice(0, turn.number - 1);
  const said = before.flatMap((earlier) => {
    const answer = earlier.answers.find((one) => one.model === model);
    const whole = !earlier.apart && answer?.text && !answer.calls.length && answer.state !== "failed";
    return whole ? [...earlier.messages, { role: "assistant", content: answer.text }] : [];
  });
  const first = system && turn.messages[0]?.role !== "system" ? [{ role: "system", content: system }] : [];
  const tools = turn.tools ?? own;
  return [
    CHAT,
    {
      model,
      messages: [...first, ...said, ...turn.messages],
      ...(most == null ? {} : { max_completion_tokens: most }),
      ...rest,
      ...(tools ? { tools } : {}),
    },
  ];
}

/**
 * @param {string} path @param {any} request @param {AbortSignal} signal
 * @returns {AsyncGenerator<any>} Raises `Fault` for a refusal, also in the midst of an answer.
 */
async function* chunks(path, request, signal) {
  const json = { ...request, stream: true, stream_options: { include_usage: true } };
  const answer = await ask("POST", path, { json, signal });
  const requestId = answer.headers.get("x-request-id");
  try {
    for await (const { data } of messages(answer)) {
      if (data === "[DONE]") return;
      if (!data) continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Fault(0, chunk.error, requestId);
      yield chunk;
    }
  } catch (fault) {
    if (fault instanceof Fault || signal.aborted) throw fault;
  }
  throw new Fault(0, { message: "The answer broke off: the connection to the service was lost." }, requestId);
}

/** @param {Answer} answer @param {any} chunk */
function take(answer, chunk) {
  answer.usage = chunk.usage ?? answer.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  answer.text += choice.delta?.content ?? choice.text ?? "";
  answer.reason = choice.finish_reason ?? answer.reason;
  for (const part of choice.delta?.tool_calls ?? []) {
    answer.calls[part.index] ??= { name: "", arguments: "" };
    answer.calls[part.index].name += part.function?.name ?? "";
    answer.calls[part.index].arguments += part.function?.arguments ?? "";
  }
}
