// Lets others watch the restyled picture, under an address that stays through reloads.

import { encode } from "./protocol.js";

const $ = (id) => document.getElementById(id);

export class Share {
  #connection;

  constructor(connection) {
    this.#connection = connection;
    $("share").checked = sessionStorage.getItem("shared") === "yes";
    $("share").onchange = () => {
      sessionStorage.setItem("shared", $("share").checked ? "yes" : "");
      this.#show();
      this.tell(true);
    };
    for (const id of ["view-address", "mjpeg-address"]) $(id).onfocus = (event) => event.target.select();
    this.#show();
  }

  /** Tells the server; a new connection need only hear of a stream that is shared. */
  tell(always) {
    const shared = $("share").checked;
    if (shared || always) this.#connection.send(encode("share", shared ? this.#names() : { stream: "", key: "" }));
  }

  #names() {
    const kept = (name, bytes) => {
      const value = sessionStorage.getItem(name) ?? random(bytes);
      sessionStorage.setItem(name, value);
      return value;
    };
    return { stream: kept("stream", 6), key: kept("key", 24) };
  }

  #show() {
    $("addresses").hidden = !$("share").checked;
    if (!$("share").checked) return;
    const { stream, key } = this.#names();
    $("view-address").value = `${location.origin}/view/${stream}#key=${key}`;
    $("mjpeg-address").value = `${location.origin}/streams/${stream}.mjpeg?key=${key}`;
  }
}

/** So many random bytes in hexadecimal digits. */
function random(bytes) {
  const values = crypto.getRandomValues(new Uint8Array(bytes));
  return Array.from(values, (value) => value.toString(16).padStart(2, "0")).join("");
}
