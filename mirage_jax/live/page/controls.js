// How much of the style, and how many steps a frame: of every prompt that comes.

import { encode } from "./protocol.js";

const MOVING = 50; // milliseconds between what a moving slider tells

const $ = (id) => document.getElementById(id);

export class Controls {
  #connection;
  #told = new Map(); // the last message of each kind, to be told again after a reconnect
  #timer = 0;
  #steps = 0; // that this page wishes

  constructor(connection) {
    this.#connection = connection;
    $("strength").oninput = () => {
      this.#write();
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#say("strength", { amount: $("strength").value / 100 }), MOVING);
    };
  }

  /** Tells a new connection what the last one knew. */
  tellAgain() {
    for (const message of this.#told.values()) this.#connection.send(message);
  }

  /** Shows what the server begins with, and a button for each number of steps it offers. */
  list({ strength, steps, step_choices: choices }) {
    $("strength").value = 100 * strength;
    this.#write();
    $("steps").append(...choices.map((count) => this.#button(count)));
    $("step-choice").hidden = choices.length < 2;
    this.#press(steps);
  }

  /** Says where the server takes other steps than this page wishes, and why. */
  show(used) {
    const why = used < this.#steps ? "preparing or too slow" : "another viewer wants more";
    $("steps-used").textContent = used === this.#steps ? "" : `now ${used}: ${why}`;
  }

  #button(count) {
    const button = Object.assign(document.createElement("button"), { textContent: count, value: count });
    button.setAttribute("aria-label", count === 1 ? "1 step" : `${count} steps`);
    button.onclick = () => {
      this.#press(count);
      this.#say("steps", { count });
    };
    return button;
  }

  #press(count) {
    this.#steps = count;
    for (const button of $("steps").children) button.setAttribute("aria-pressed", Number(button.value) === count);
  }

  #write() {
    $("strength-shown").textContent = `${$("strength").value} %`;
  }

  #say(kind, fields) {
    const message = encode(kind, fields);
    this.#told.set(kind, message);
    this.#connection.send(message);
  }
}
