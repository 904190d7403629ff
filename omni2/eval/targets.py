"""What `nano` is to reach, and what is published about the released models, by the keys of figures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A bound in the figure's own unit; an `aim` is wished for, anything else has to be reached."""

    bound: float
    at_most: bool = False
    below: bool = False
    aim: bool = False

    def reached(self, value: float) -> bool:
        """Whether `value` is on the right side."""
        if self.below:
            return value < self.bound
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        sign = "<" if self.below else "≤" if self.at_most else "≥"
        return f"{'aim ' if self.aim else ''}{sign} {self.bound:g}"


TARGETS = {
    "qa.answers": Target(1500),
    "qa.topics": Target(12),
    "qa.spoken": Target(92),
    "qa.unknown": Target(90),
    "qa.refused": Target(3, at_most=True),
    "qa.noise": Target(85),
    "qa.room": Target(85),
    "qa.telephone": Target(85),
    "asr.questions": Target(6, at_most=True),
    "asr.sentences": Target(25, at_most=True),
    "tts.new": Target(15, at_most=True),
    "tts.sentences": Target(25, at_most=True, aim=True),
    "speech.all": Target(4, at_most=True),
    "vision.things": Target(150),
    "vision.name": Target(85),
    "vision.colour": Target(85),
    "vision.count": Target(85),
    "interruption.clean.f1": Target(0.97),
    "interruption.5.f1": Target(0.92),
    "interruption.false": Target(1, below=True),
    "interruption.delay": Target(0.5, at_most=True),
    "duplex.order": Target(97),
    "duplex.order.5": Target(92),
    "duplex.order.silence": Target(0.7, at_most=True),
    "duplex.false": Target(1, below=True),
    "duplex.nod": Target(5, at_most=True),
    "duplex.up": Target(95),
    "duplex.turn": Target(95),
    "duplex.turn.latency": Target(0.5, at_most=True),
    "duplex.pause": Target(10, at_most=True),
    "duplex.whole": Target(100),
    "codec.stoi": Target(0.95),
    "int8.unchanged": Target(99),
    "int8.wer": Target(0.3, at_most=True),
    "bench.released.step.1.500": Target(20, at_most=True),
    "bench.released.step.1.500.speech": Target(14, at_most=True),
    "bench.released.step.4.500": Target(30, at_most=True),
    "bench.released.prefill": Target(250, at_most=True),
    "bench.released.encoder.trimmed": Target(100, at_most=True),
    "bench.released.encoder.exact": Target(600, at_most=True),
    "bench.released.first.trimmed": Target(600, at_most=True),
    "bench.released.first.exact": Target(1100, at_most=True),
    "bench.released.first.early": Target(600, at_most=True),
    "bench.released.conversations": Target(4),
    "bench.released.memory.answering": Target(1600, at_most=True),
    "bench.released.memory.more": Target(40, at_most=True),
    "bench.released.start": Target(5, at_most=True),
    "bench.nano.first.trimmed": Target(150, at_most=True),
    "bench.nano.conversations": Target(24),
}

# Of other questions, voices and recognisers than ours, but for LibriSpeech, which `omni2 eval asr --data` takes:
# compare with care.
LIBRISPEECH = "Mini-Omni2: 4.8 on LibriSpeech test-clean, 9.8 on test-other (arXiv 2410.11190)"
VOICEBENCH = "Mini-Omni2: {}, judged otherwise (VoiceBench, arXiv 2410.17196)"
# Full-Duplex-Bench 1.0 (arXiv 2503.04721, table III, read off a repository that repeats it), on recordings and
# synthetic speech of its own; PersonaPlex by way of a summary of arXiv 2606.11167.
BENCH = "Full-Duplex-Bench: {} (arXiv 2503.04721, 2606.11167)"
RELEASED = {
    "duplex.pause": BENCH.format("Moshi 98.5, Freeze-Omni 64.2, PersonaPlex 48.2, Gemini Live 25.5"),
    "duplex.turn": BENCH.format("Moshi 94.1, Freeze-Omni 33.6, PersonaPlex 95.8, Gemini Live 65.5"),
    "duplex.turn.latency": BENCH.format("Moshi 0.265, Freeze-Omni 0.953, PersonaPlex 0.219, Gemini Live 1.301"),
    "duplex.up": BENCH.format("Moshi 100, Freeze-Omni 86.7, PersonaPlex 94.0, Gemini Live 89.1"),
    "asr.sentences": LIBRISPEECH,
    "asr.test-clean": "Mini-Omni2: 4.8 (arXiv 2410.11190)",
    "asr.test-other": "Mini-Omni2: 9.8 (arXiv 2410.11190)",
    "speech.short": "Mini-Omni2: 5.8 on 14 answers (arXiv 2605.03937)",
    "speech.long": "Mini-Omni2: 0.8 on 6 answers (arXiv 2605.03937)",
    "qa.sd-qa": VOICEBENCH.format("9.31"),
    "qa.mmsu": VOICEBENCH.format("24.27"),
    "qa.openbookqa": VOICEBENCH.format("26.59"),
}
