// What the picture should look like: typed, chosen, or between two.

import { encode } from "./protocol.js";

const TYPING = 250; // milliseconds without a key until a prompt is sent

const $ = (id) => document.getElementById(id);

export class Prompts {
  #connection;
  #wish = null; // the last message, to be told again after a reconnect
  #timer = 0;

  constructor(connection) {
    this.#connection = connection;
    for (const id of ["prompt", "other", "amount"]) {
      $(id).oninput = () => this.#changed(id, id === "amount" ? TYPING / 5 : TYPING);
      $(id).onkeydown = (event) => {
        if (event.key !== "Enter" || event.isComposing) return;
        event.preventDefault(); // a prompt is one line, and this one is done
        this.#changed(id, 0);
      };
    }
  }

  /** Tells a new connection what the last one knew. */
  tellAgain() {
    if (this.#wish) this.#connection.send(this.#wish);
  }

  /** Shows the server's first prompt, and a button for each of its styles. */
  list(prompt, styles) {
    $("prompt").value = prompt;
    for (const [group, title] of [["style", "Styles"], ["effect", "Effects with memory"]]) {
      const heading = Object.assign(document.createElement("h2"), { textContent: title });
      const chips = Object.assign(document.createElement("div"), { className: "chips" });
      for (const style of styles.filter((one) => one.group === group)) {
        const chip = Object.assign(document.createElement("button"), { textContent: style.label, title: style.prompt });
        const thumb = document.createElement("span");
        thumb.style.backgroundPositionY = `${(100 * styles.indexOf(style)) / (styles.length - 1)}%`;
        chip.prepend(thumb);
        chip.setAttribute("aria-pressed", style.prompt === prompt);
        chip.onclick = () => this.#choose(chip, style);
        chips.append(chip);
      }
      $("styles").append(heading, chips);
    }
  }

  #choose(chip, style) {
    clearTimeout(this.#timer);
    $("prompt").value = style.prompt;
    press(chip);
    this.#say(this.#blend(style.prompt) ?? encode("style", { name: style.name }));
  }

  #changed(id, pause) {
    clearTimeout(this.#timer);
    if (id !== "amount") $("typed").textContent = "…";
    this.#timer = setTimeout(() => {
      const text = $("prompt").value.trim();
      if (id === "prompt") press(null);
      if (!text) return ($("typed").textContent = "");
      this.#say(this.#blend(text) ?? encode("prompt", { text }));
    }, pause);
  }

  /** The message of a prompt between two; null where there is no second one. */
  #blend(text) {
    const other = $("other").value.trim();
    return other ? encode("blend", { text, other, amount: $("amount").value / 100 }) : null;
  }

  #say(message) {
    this.#wish = message;
    $("typed").textContent = this.#connection.send(message) ? "sent" : "";
    setTimeout(() => ($("typed").textContent = ""), 900);
  }
}

function press(button) {
  document.querySelectorAll(".chips button").forEach((other) => other.setAttribute("aria-pressed", other === button));
}
