"""Talk to a server from a terminal, turn by turn: python examples/terminal_client.py [--server ADDRESS]

Type a question, or the path of a sound file.  Answers are played if sounddevice is installed.  An empty line ends.
"""

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from omni2 import OmniError
from omni2.client import SAMPLE_RATE, Client

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--server", default=os.environ.get("API_URL", "http://127.0.0.1:60808/chat"))
options = parser.parse_args()

try:
    import sounddevice

    speaker = sounddevice.RawOutputStream(SAMPLE_RATE, channels=1, dtype="int16")
except Exception:  # no package, no PortAudio library, no sound card: each has an exception of its own
    speaker = nullcontext()

try:
    client = Client(options.server, os.environ.get("OMNI2_API_KEY"))
    print(f"{client.health()['model']} at {client.base}")
    with speaker as player:
        while question := input("> ").strip():
            with client.chat(question) if Path(question).is_file() else client.ask(question) as answer:
                for chunk in answer:
                    print(chunk.text, end="", flush=True)
                    if player and chunk.pcm:
                        player.write(chunk.pcm)
                print()
except (OmniError, EOFError, KeyboardInterrupt) as error:
    sys.exit(f"terminal_client.py: {error}" if isinstance(error, OmniError) else 0)
