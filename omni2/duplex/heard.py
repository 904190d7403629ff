"""Which words of an answer were heard, and the turns that a conversation remembers."""

from collections.abc import Callable, Iterable

LETTER = 0.07  # seconds that a letter of ordinary speech takes
ENOUGH = 0.5  # of a word has to be said for it to count as heard

Turn = tuple[str, str]


class Words:
    """The text of one answer with the times at which its pieces are said.

    Models whose text keeps pace with the speech tell where each piece begins; with the others all letters take as long.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._pieces: list[tuple[str, int | None]] = []

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(text for text, _ in self._pieces)

    def add(self, text: str, start: int | None) -> None:
        """`text` is said from sample `start` of the answer on; None: nobody knows."""
        if text:
            self._pieces.append((text, start))

    def heard(self, played: int, made: int, whole: bool) -> str:
        """The words said within the first `played` of `made` samples; `whole` says that no more are to come."""
        if whole and played >= made:
            return self.text.strip()
        if not self._pieces or any(start is None for _, start in self._pieces):
            return self._by_share(played, made, whole)
        starts = [start for text, start in self._pieces for _ in text if start is not None]
        text, kept = self.text, 0
        words = list(_words(text))
        nexts = [starts[begin] for begin, _ in words[1:]] + [made]
        for (begin, end), last in zip(words, nexts, strict=True):
            first = starts[begin]
            if played < first + ENOUGH * max(last - first, 0) or played <= 0:
                break
            kept = end
        return text[:kept].strip()

    def _by_share(self, played: int, made: int, whole: bool) -> str:
        text = self.text
        expected = made if whole else max(made, round(len(text.strip()) * LETTER * self._rate))
        letters = len(text) * min(played / expected, 1.0) if expected else 0.0
        kept = 0
        for begin, end in _words(text):
            if letters < begin + ENOUGH * (end - begin) or not played:
                break
            kept = end
        return text[:kept].strip()


def _words(text: str) -> Iterable[tuple[int, int]]:
    """Where the words of `text` begin and end."""
    begin = None
    for place, letter in enumerate(text + " "):
        if letter.isspace():
            if begin is not None:
                yield begin, place
            begin = None
        elif begin is None:
            begin = place


class Memory:
    """The turns of a conversation, questions (perhaps "") with the answers that were heard, the oldest first.

    As many as fit into `room` tokens stay; `count` counts those of a text.
    """

    def __init__(self, room: int, count: Callable[[str], int], turns: Iterable[Turn] = ()) -> None:
        self._room, self._count = room, count
        self._turns: list[tuple[Turn, int]] = []
        for question, answer in turns:
            self.add(question, answer)

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What is remembered."""
        return tuple(turn for turn, _ in self._turns)

    def add(self, question: str, answer: str) -> None:
        """Remember a turn; the oldest leave if need be.  An answer of which nothing was heard is none."""
        if not answer.strip():
            return
        size = self._count(question) + self._count(answer) + 3  # `input` and two `eot`
        self._turns.append(((question, answer), size))
        while sum(size for _, size in self._turns) > self._room:
            self.drop()

    def drop(self) -> None:
        """Forget the oldest turn, if there is one."""
        del self._turns[:1]

    def clear(self) -> None:
        """Forget everything."""
        self._turns.clear()
