"""What stands in for voices, models and recognisers in tests of the evaluation: sounds whose samples are letters."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from omni2.omni import Answer, Timings

Wave = npt.NDArray[np.float32]
NOTHING = np.zeros(0, np.float32)


def sound(text: str) -> Wave:
    """(letters,) float32: a sample a letter."""
    return (np.frombuffer(text.encode(), np.uint8) / 256).astype(np.float32)


def words(wave: Wave) -> str:
    """What `sound` was made of; nonsense for any other sound."""
    return np.rint(np.abs(wave) * 256).clip(0, 127).astype(np.uint8).tobytes().decode()


class Ear:
    """A recogniser that hears such sounds, all but the words it is deaf to."""

    def __init__(self, deaf_to: str = "-") -> None:
        self.deaf_to = deaf_to

    def transcribe(self, wave: Wave, rate: int) -> str:
        return " ".join(word for word in words(wave).split() if word != self.deaf_to)


class Speaker:
    """A model that answers a question, spoken or typed, with what `knows` has for it, and reads any text aloud."""

    sample_rate = 8000
    abilities = frozenset({"answer", "transcribe", "speak"})

    def __init__(self, knows: Callable[[str], str], abilities: frozenset[str] = abilities) -> None:
        self.knows, self.abilities = knows, abilities

    def answer(
        self,
        audio: Wave | bytes | None = None,
        *,
        text: str | None = None,
        image: object = None,
        reply: str = "speech",
        history: Sequence[tuple[str, str]] = (),
    ) -> Answer:
        asked = words(np.asarray(audio)) if audio is not None else text or ""
        return self._say(self.knows(asked), reply == "speech")

    def transcribe(self, audio: Wave) -> str:
        return words(audio)

    def speak(self, text: str) -> Answer:
        return self._say(text, True)

    def _say(self, text: str, aloud: bool) -> Answer:
        samples = sound(text) if aloud else NOTHING
        return Answer(text, samples, self.sample_rate, "end", Timings(0.1, 0.2 if aloud else None, 1.0, 2.0))
