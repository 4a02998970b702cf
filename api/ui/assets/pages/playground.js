// @ts-check
/** `#/playground?m=NAME&m=NAME`: up to four models answer the same questions, side by side. */
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { Conversation, requestOf } from "../answers.js";
import { useLoaded } from "../loaded.js";
import { Await, Empty, LinkButton, Page, Section } from "../parts/basics.js";
import { go } from "../router.js";
import { Chosen, chosenOf, thatAnswer, useJobOf } from "./playground/chosen.js";
import { Program } from "./playground/program.js";
import { Prompts } from "./playground/prompts.js";
import { SettingsForm, howOf, settingsOf } from "./playground/settings.js";
import { Turns } from "./playground/turns.js";

// Nearer to its end than this, the page follows what is written.
const NEAR_PIXELS = 200;
// As in new.css: there is room beside the conversation.
const WIDE = "(min-width: 1100px)";

/** @param {import("../router.js").PageProps} props */
export default function Playground({ query }) {
  const models = useLoaded("/v1/models");
  return html`<${Await} loaded=${models}>
    ${(/** @type {any} */ found) => {
      const answering = thatAnswer(found.data);
      return answering.length
        ? html`<${Asking} models=${answering} query=${query} />`
        : html`<${Page} title="Playground"><${Empty} title="No models yet">
            <p>A base model is added by an operator; a job that succeeds leaves a tuned one.</p>
            <${LinkButton} href="#/models">Go to the models</${LinkButton}>
          </${Empty}></${Page}>`;
    }}
  </${Await}>`;
}

function Asking({ models, query }) {
  const conversation = useConversation();
  const [text, setText] = useState("");
  const chosen = chosenOf(models, query.getAll("m"));
  const settings = settingsOf(query);
  const { how, wrong } = howOf(settings);
  const { job, checkpoints } = useJobOf(models, chosen);
  const change = (/** @type {any} */ changed) =>
    go("/playground", { m: chosen, ...settings, ...changed }, { replace: true });
  const { turns, busy } = conversation;
  const [open] = useState(matchMedia(WIDE).matches || Object.values(settings).some(Boolean));
  const question = { text, messages: [{ role: "user", content: text }], apart: how.plain, tools: null, expected: null };

  const send = () => {
    if (busy || wrong || !text.trim()) return;
    setText("");
    conversation.ask(question, chosen, how);
  };
  const fault = turns.at(-1)?.answers.find((/** @type {any} */ answer) => answer.fault)?.fault ?? null;
  const next = { ...question, text: text || "Hello", messages: [{ role: "user", content: text || "Hello" }] };
  const turn = { ...next, number: turns.length + 1, answers: [] };

  return html`
    <${Page} title="Playground" actions=${turns.length > 0 && html`<button type="button"
      onClick=${() => conversation.reset()}>New conversation</button>`}>
      <div class="new">
        <div class="steps">
          <${Section} title="Models">
            <${Chosen} models=${models} checkpoints=${checkpoints} chosen=${chosen}
              choose=${(/** @type {string[]} */ m) => change({ m })} />
          </${Section}>
        </div>
        <details class="card aside" open=${open}>
          <summary>Settings</summary>
          <div class="live"><${SettingsForm} settings=${settings} change=${change} wrong=${wrong} fault=${fault} /></div>
        </details>
        <div class="steps">
          <${Section} title="Conversation">
            ${turns.length
              ? html`<${Turns} turns=${turns} again=${(/** @type {any} */ one, /** @type {any} */ answer) => conversation.again(one, answer, how)} />`
              : html`<p class="quiet">All the models above get the same questions. Nothing of a conversation
                is kept: not here when you leave, and not in the service.</p>`}
            <${Composer} text=${text} setText=${setText} send=${send} busy=${busy} plain=${how.plain} asked=${turns.length}
              lacks=${wrong !== null || !text.trim()} stop=${() => conversation.stop()} />
          </${Section}>
          ${job?.validation_file && html`<${Prompts} file=${job.validation_file} plain=${how.plain} busy=${busy || wrong !== null}
            put=${(/** @type {any} */ prompt) => conversation.ask(prompt, chosen, how)}
            askAll=${(/** @type {any[]} */ prompts) => conversation.askAll(prompts, chosen, how)} />`}
          <${Section} title="As a program">
            <${Program} asked=${requestOf(turns, turn, chosen[0], how)} />
          </${Section}>
        </div>
      </div>
    </${Page}>
  `;
}

function useConversation() {
  const [, draw] = useState(0);
  /** @type {{current: Conversation | null}} */
  const kept = useRef(null);
  kept.current ??= new Conversation(() => draw((n) => n + 1));
  const conversation = kept.current;
  useEffect(() => () => conversation.stop(), []);
  return conversation;
}

function Composer({ text, setText, send, busy, plain, asked, lacks, stop }) {
  const pressed = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  };
  const form = useRef(/** @type {HTMLElement | null} */ (null));
  const before = useRef(asked);
  useEffect(() => {
    const below = (form.current?.getBoundingClientRect().bottom ?? 0) - innerHeight;
    if (asked > before.current || (busy && below > 0 && below < NEAR_PIXELS)) form.current?.scrollIntoView({ block: "end" });
    before.current = asked;
  });
  return html`
    <form class="composer" ref=${form} onSubmit=${(/** @type {Event} */ event) => (event.preventDefault(), send())}>
      <div class="field">
        <label for="question">${plain ? "A text to go on with" : "Your question"}</label>
        <textarea id="question" rows="2" aria-describedby="question-hint" value=${text} onKeyDown=${pressed}
          onInput=${(/** @type {any} */ event) => setText(event.target.value)}></textarea>
        <p class="hint" id="question-hint">Enter asks; Shift and Enter begin another line.</p>
      </div>
      <div class="actions">
        <button type="submit" class="main" disabled=${busy || lacks}>Ask</button>
        ${busy && html`<button type="button" onClick=${stop}>Stop</button>`}
        <span role="status" class="quiet small">${busy ? "Answering …" : asked > 0 ? "All have ended." : ""}</span>
      </div>
    </form>
  `;
}
