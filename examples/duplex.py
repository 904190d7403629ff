"""Talk to it while it talks: python examples/duplex.py [--policy barge-in].  "Stop Omni" stops it, Ctrl-C ends all."""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from omni2 import OmniError, OmniModel
from omni2.duplex.speaker import Speaker

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="nano")
parser.add_argument("--policy", default="command", choices=["command", "barge-in", "off"])
options = parser.parse_args()
try:
    model = OmniModel.from_pretrained(options.model)
except OmniError as error:
    sys.exit(f"duplex.py: {error}")
session, speaker, ears = model.session(options.policy), Speaker(), ThreadPoolExecutor(1)


def listen(played: int, samples: np.ndarray) -> None:
    session.played(played)
    session.listen(samples, model.sample_rate)


try:
    import sounddevice as sd

    both = lambda mic, out, *_: ears.submit(listen, speaker.fill(out[:, 0]), mic[:, 0].copy())  # noqa: E731
    card = sd.Stream(model.sample_rate, 768, channels=1, dtype="float32", callback=both)
except Exception as error:  # no package, no PortAudio library, no sound card: each has an exception of its own
    sys.exit(f"no sound card ({error}): pip install 'omni2[duplex]'")
with suppress(KeyboardInterrupt), card, session:
    for event in session:
        speaker.follow(event)
        print(getattr(event, "text", "\n"), end="", flush=True)
