"""Ask a server over /chat and keep the answer: python examples/chat_client.py [QUESTION.wav] [--server ADDRESS]

Start one first: `omni2 serve`.  No model and no PyTorch is loaded here.
"""

import argparse
import os
import sys
from pathlib import Path

from omni2 import OmniError
from omni2.client import Client, to_wav

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("question", nargs="?", type=Path, default=Path(__file__).parent / "audio" / "capital.wav")
parser.add_argument("--server", default=os.environ.get("API_URL", "http://127.0.0.1:60808/chat"))
parser.add_argument("--image", type=Path, help="a picture that the question is about")
parser.add_argument("--save", type=Path, default=Path("answer.wav"))
options = parser.parse_args()

try:
    client = Client(options.server, os.environ.get("OMNI2_API_KEY"))
    with client.chat(options.question, options.image) as answer:
        for chunk in answer:  # chunk.pcm holds the new samples: s16le, mono, 24 kHz
            print(chunk.text, end="", flush=True)
        print(f"\n[{answer.figures()}]")
except OmniError as error:
    sys.exit(f"chat_client.py: {error}")
options.save.write_bytes(to_wav(answer.pcm))
print("written to", options.save)
