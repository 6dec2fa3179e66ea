// The picture: source and result on one canvas, as the view says.

const SMALLEST = 512; // rows of the canvas: lines and saved pictures stay sharp

export class Stage {
  #canvas;
  #context;
  #source = null;
  #styled = null;

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    this.view = "full";
    this.wipe = 0.5;
  }

  get canvas() {
    return this.#canvas;
  }

  /** Takes over a pair of ImageBitmaps of one moment; either may be null. */
  show(source, styled) {
    if (this.#source !== source) this.#source?.close();
    if (this.#styled !== styled) this.#styled?.close();
    this.#source = source;
    this.#styled = styled;
    this.draw();
  }

  /** Takes over an ImageBitmap without a source: the last one stays. */
  showFree(styled) {
    this.show(this.#source, styled);
  }

  draw() {
    const picture = this.#styled ?? this.#source;
    if (!picture) return;
    const factor = Math.max(1, Math.ceil(SMALLEST / picture.height));
    const width = factor * picture.width;
    const height = factor * picture.height;
    const split = this.view === "split";
    this.#resize(split ? 2 * width : width, height);
    const source = this.#source ?? picture;
    const context = this.#context;
    context.imageSmoothingQuality = "high";
    if (split) context.drawImage(source, 0, 0, width, height);
    context.drawImage(picture, split ? width : 0, 0, width, height);
    if (this.view === "wipe") {
      const edge = Math.round(this.wipe * width);
      if (edge > 0) {
        const part = (edge / width) * source.width;
        context.drawImage(source, 0, 0, part, source.height, 0, 0, edge, height);
      }
      context.fillStyle = "rgba(255, 255, 255, 0.9)";
      context.fillRect(edge - 1, 0, 2, height);
    }
  }

  #resize(width, height) {
    if (this.#canvas.width === width && this.#canvas.height === height) return;
    this.#canvas.width = width;
    this.#canvas.height = height;
  }
}

/** Gives the visitor a file. */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Records a canvas until stop(). */
export class Recorder {
  #recorder = null;
  #parts = [];

  static get possible() {
    return "MediaRecorder" in window && "captureStream" in HTMLCanvasElement.prototype;
  }

  get active() {
    return this.#recorder !== null;
  }

  start(canvas, done) {
    const wanted = ["video/webm;codecs=vp9", "video/webm", "video/mp4"];
    const type = wanted.find((one) => MediaRecorder.isTypeSupported(one));
    this.#parts = [];
    const stream = canvas.captureStream(30);
    this.#recorder = new MediaRecorder(stream, { mimeType: type, videoBitsPerSecond: 8e6 });
    this.#recorder.ondataavailable = (event) => this.#parts.push(event.data);
    this.#recorder.onstop = () => {
      stream.getTracks().forEach((track) => track.stop());
      done(new Blob(this.#parts, { type }), type.startsWith("video/mp4") ? "mp4" : "webm");
    };
    this.#recorder.start(1000);
  }

  stop() {
    this.#recorder?.stop();
    this.#recorder = null;
  }
}
