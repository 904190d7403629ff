/** A button that is held: with a finger, the mouse or the space bar; who cannot hold presses Enter twice. */

/**
 * Calls `down()` when `button` goes down and `up()` when it comes up again, for as long as `wanted()` holds; `click()`
 * where it does not.  `holding()` tells whether it is down.
 */
export function holdable(button, { wanted, down, up, click, holding }) {
  const isSpace = ({ key, target }) => key === " " && (target === document.body || target === button);
  const release = () => holding() && up();

  button.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !wanted()) return;
    button.setPointerCapture(event.pointerId);
    down();
  });
  for (const type of ["pointerup", "pointercancel"]) button.addEventListener(type, release);
  button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch is no right click
  button.addEventListener("click", ({ detail }) => {
    if (!wanted()) click();
    else if (detail === 0) holding() ? up() : down(); // by Enter or a screen reader
  });
  document.addEventListener("keydown", (event) => {
    if (!isSpace(event) || !wanted()) return;
    event.preventDefault();
    if (!event.repeat) down();
  });
  document.addEventListener("keyup", (event) => {
    if (!holding() || event.key !== " ") return;
    event.preventDefault(); // no click
    up();
  });
  window.addEventListener("blur", release);
}
