"""Hear the answer while it is made: python examples/stream_to_speaker.py [QUESTION.wav] [--save ANSWER.wav]"""

import argparse
import sys
import wave
from pathlib import Path

from omni2 import OmniError, OmniModel

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("question", nargs="?", type=Path, default=Path(__file__).parent / "audio" / "identity.wav")
parser.add_argument("--model", default="nano")
parser.add_argument("--save", type=Path, help="write a wav file instead of playing")
options = parser.parse_args()

try:
    model = OmniModel.from_pretrained(options.model)
    answer = model.stream(options.question)  # bad input fails here, before the first chunk
except OmniError as error:
    sys.exit(f"stream_to_speaker.py: {error}")

if options.save:
    with wave.open(str(options.save), "wb") as file:
        file.setparams((1, 2, answer.sample_rate, 0, "NONE", ""))
        for chunk in answer:
            print(chunk.text, end="", flush=True)
            file.writeframes((chunk.audio * 32767).astype("<i2").tobytes())
else:
    try:
        import sounddevice

        speaker = sounddevice.OutputStream(answer.sample_rate, channels=1, dtype="float32")
    except Exception as error:  # no package, no PortAudio library, no sound card: each has an exception of its own
        sys.exit(f"no speaker ({error}): pip install sounddevice, or give --save answer.wav")
    with answer, speaker:
        for chunk in answer:
            print(chunk.text, end="", flush=True)
            speaker.write(chunk.audio)
print()
