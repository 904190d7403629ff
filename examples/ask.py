"""Ask a recorded question and keep the spoken answer: python examples/ask.py [QUESTION.wav] [--save ANSWER.wav]"""

import argparse
import sys
import wave
from pathlib import Path

from omni2 import OmniError, OmniModel

QUESTION = Path(__file__).parent / "audio" / "capital.wav"

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("question", nargs="?", type=Path, default=QUESTION)
parser.add_argument("--model", default="nano")
parser.add_argument("--save", type=Path, default=Path("answer.wav"))
options = parser.parse_args()

try:
    model = OmniModel.from_pretrained(options.model)
    print("question:", model.transcribe(options.question))
    answer = model.answer(options.question)
except OmniError as error:
    sys.exit(f"ask.py: {error}")

print("answer:  ", answer.text)
print(f"first sound after {answer.timings.first_audio or 0:.2f} s, real-time factor {answer.timings.rtf or 0:.2f}")
with wave.open(str(options.save), "wb") as file:
    file.setparams((1, 2, answer.sample_rate, 0, "NONE", ""))
    file.writeframes((answer.audio * 32767).astype("<i2").tobytes())
print("written to", options.save)
