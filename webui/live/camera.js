/** The camera: a preview, and stills as data URIs. */

const LONGEST_SIDE = 640; // pixels of a still; the models look at far fewer

export class Camera {
  #stream = null;

  /** `video` is the element that shows the preview. */
  constructor(video) {
    this.video = video;
  }

  get on() {
    return this.#stream !== null;
  }

  /** Ask for the camera and show it; resolves with the first picture on screen.  Rejects as getUserMedia does. */
  async open() {
    this.#stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
    this.video.srcObject = this.#stream;
    await this.video.play();
  }

  close() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
    this.#stream = null;
  }

  /** What the camera sees now, as a JPEG data URI. */
  still() {
    const { videoWidth: width, videoHeight: height } = this.video;
    const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.getContext("2d").drawImage(this.video, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/jpeg", 0.85);
  }
}
