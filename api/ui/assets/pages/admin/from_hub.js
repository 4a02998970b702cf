// @ts-check
/** A base model by its name on the hub that the service asks. */
import { html, useState } from "../../vendor/preact.js";
import { post } from "../../api.js";
import { useAction } from "../../loaded.js";
import { FaultNotice, Field, LinkButton, Notice } from "../../parts/basics.js";
import { at, elsewhere } from "../../parts/refusals.js";

const FIELDS = ["hub", "revision", "id", "licence", "chat_template"];

/** @param {{again: any, done: (facts: any) => void}} props `again`: one that is registered. */
export function FromHub({ again, done }) {
  const [asked, setAsked] = useState({
    hub: again?.id.includes("/") ? again.id : "",
    revision: again?.revision ?? "",
    id: again && !again.id.includes("/") ? again.id : "",
    licence: again?.tunery.licence ?? "",
    chat_template: "",
  });
  const adding = useAction(async () => {
    const said = Object.entries(asked).filter(([, value]) => value.trim());
    done(await post("/v1/admin/models", Object.fromEntries(said)));
  });
  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    adding.run();
  };
  const input = (/** @type {string} */ name, /** @type {any} */ more = {}) => (/** @type {any} */ given) =>
    html`<input ...${given} ...${more} value=${asked[name]} spellcheck=${false}
      onInput=${(/** @type {any} */ event) => setAsked({ ...asked, [name]: event.target.value })} />`;
  const wrong = (/** @type {string} */ name) => at(adding.fault, name);
  return html`
    <form onSubmit=${send}>
      ${again &&
      html`<p>The same files again repair a model that was found broken, and may change its licence and its
      template. Other files need another name. A model that came from a folder is added again by the
      command, on the machine that has the folder.</p>`}
      <${Field} label="Name on the hub" name="hub" wrong=${wrong("hub")} hint="As ORG/NAME.">
        ${input("hub", { required: true, placeholder: "Qwen/Qwen3-0.6B" })}
      </${Field}>
      <div class="columns">
      <${Field} label="Version" name="revision" wrong=${wrong("revision")}
        hint="A commit, tag or branch; empty: the hub's default. What is registered is the commit.">
        ${input("revision")}
      </${Field}>
      <${Field} label="What jobs call it" name="id" wrong=${wrong("id")} hint="Empty: its name on the hub.">
        ${input("id")}
      </${Field}>
      <${Field} label="Licence" name="licence" wrong=${wrong("licence")} hint="Empty: what its card names.">
        ${input("licence")}
      </${Field}>
      </div>
      <${Field} label="Chat template" name="chat_template" wrong=${wrong("chat_template")}
        hint=${html`A name such as <code>chatml</code>, or Jinja, in the place of the model's own. Empty: its
          own, or the one it was given before.`}>
        ${(given) => html`<textarea ...${given} rows="3" spellcheck=${false} value=${asked.chat_template}
          onInput=${(event) => setAsked({ ...asked, chat_template: event.target.value })}></textarea>`}
      </${Field}>
      <div class="actions">
        <button type="submit" class="main" disabled=${adding.busy || !asked.hub.trim()}>
          ${again ? "Add again" : "Add"}
        </button>
        ${again && html`<${LinkButton} href="#/admin/models">Leave it</${LinkButton}>`}
      </div>
      ${adding.busy &&
      html`<${Notice}><p>Asking the hub for the model's config, its tokenizer and the heads of its weights.
        No weights are fetched. This takes up to a minute.</p></${Notice}>`}
      <${FaultNotice} fault=${elsewhere(adding.fault, FIELDS)} />
    </form>
  `;
}
