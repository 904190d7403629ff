/** Turns as elements of the page's list, brought up to date in place. */

const seconds = (ms) => `${(ms / 1000).toFixed(2)}\u00a0s`;

function element(tag, name, text = "") {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = text;
  return made;
}

/** How long the answer took, in words. */
function timing({ latency, pause }) {
  if (latency === null) return "";
  const beyond = pause ? ` · ${seconds(latency - pause)} beyond the pause` : "";
  return `First sound after ${seconds(latency)}${beyond}`;
}

export class TurnView {
  #elements = new Map();

  constructor(list) {
    this.list = list;
  }

  /** Add `turn`, or bring its element up to date; follows the end of the list unless it was scrolled away. */
  show(turn) {
    const { list } = this;
    const following = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
    const item = this.#elements.get(turn) ?? this.#add(turn);
    if (turn.who === "you") this.#showQuestion(item, turn);
    else this.#showAnswer(item, turn);
    if (following) list.scrollTop = list.scrollHeight;
  }

  #add(turn) {
    const item = element("li", `turn ${turn.who}`);
    item.append(element("span", "unseen", turn.who === "you" ? "You: " : "omni2: "));
    if (turn.picture) {
      const picture = element("img", "shown");
      Object.assign(picture, { src: turn.picture, alt: "What the camera saw" });
      item.append(picture);
    }
    item.append(element("p", "words"), element("p", "meta"));
    this.#elements.set(turn, item);
    this.list.append(item);
    return item;
  }

  #showQuestion(item, { text, spoken }) {
    item.classList.toggle("pending", spoken && !text);
    item.querySelector(".words").textContent = text || (spoken ? "Spoken question" : "");
  }

  /** Words heard so far stand out from those still to come; of an interrupted answer the rest is struck out. */
  #showAnswer(item, turn) {
    const words = turn.text.trim();
    const { share } = turn;
    const heard = share < 1 ? words.lastIndexOf(" ", words.length * share) + 1 : words.length;
    item.setAttribute("aria-busy", turn.open);
    item.classList.toggle("cut", turn.cut);
    item.classList.toggle("failed", turn.error !== "");
    const rest = element(turn.cut ? "s" : "span", "rest", words.slice(heard));
    const placeholder = turn.open && !words ? "…" : "";
    item.querySelector(".words").replaceChildren(words.slice(0, heard) || placeholder, rest);
    item.querySelector(".words").hidden = !words && !placeholder;
    item.querySelector(".meta").textContent = [turn.cut ? `Interrupted after ${seconds((1000 * turn.heard) / 24000)}` : "", turn.error, timing(turn)]
      .filter(Boolean)
      .join(" · ");
  }
}
