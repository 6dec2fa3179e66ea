// A WebSocket that comes back by itself.

import { decode, encode } from "./protocol.js";

const FIRST_PAUSE = 1000; // milliseconds before the first new try
const LONGEST_PAUSE = 10000;

/** Calls on.state(state, detail, pause), on.picture(message), on.statistics(message). */
export class Connection {
  #socket = null;
  #timer = 0;
  #pause = FIRST_PAUSE;
  #settled = false; // the server said the last word about this connection
  #token;
  #on;

  constructor(token, on) {
    this.#token = token;
    this.#on = on;
    this.ready = false;
  }

  open() {
    this.close();
    this.#settled = false;
    this.#on.state("connecting", "");
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/ws`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(encode("hello", { token: this.#token }));
    socket.onmessage = (event) => this.#take(event.data);
    socket.onclose = () => {
      if (this.#socket === socket) this.#lost();
    };
    this.#socket = socket;
  }

  close() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    this.ready = false;
    if (socket) socket.close();
  }

  /** Sends if somebody listens; false if not. */
  send(data) {
    if (!this.ready || this.#socket.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(data);
    return true;
  }

  /** Bytes that the network has not taken yet. */
  get backlog() {
    return this.#socket ? this.#socket.bufferedAmount : 0;
  }

  #take(data) {
    const message = decode(data);
    if (!message) return;
    if (message.kind === "picture") return this.#on.picture(message);
    if (message.kind === "statistics") return this.#on.statistics(message);
    const { state, detail, retry } = message;
    if (state === "warming" || state === "ready") {
      this.ready = true;
      this.#pause = FIRST_PAUSE;
      this.#on.state(state, detail, message);
      return;
    }
    // busy, refused, ended: the server closes now.
    this.#settled = !retry;
    if (retry) this.#again(state, detail);
    else {
      this.close();
      this.#on.state(state, detail, message);
    }
  }

  #lost() {
    this.ready = false;
    if (!this.#settled) this.#again("lost", "");
  }

  #again(state, detail) {
    this.close();
    const pause = this.#pause * (0.75 + Math.random() / 2);
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE);
    this.#on.state(state, detail, { pause });
    this.#timer = setTimeout(() => this.open(), pause);
  }
}
