"""Describe a picture: python examples/describe_image.py [PICTURE] --model gpt-omni/mini-omni2

The embedded `nano` was taught some 300 everyday things, and not all of them well.
"""

import argparse
import sys
from pathlib import Path

from omni2 import OmniError, OmniModel

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("picture", nargs="?", type=Path, default=Path(__file__).parent / "pictures" / "apple.png")
parser.add_argument("--model", default="nano")
parser.add_argument("--question", help="typed question about the picture; without one it is described")
options = parser.parse_args()

try:
    model = OmniModel.from_pretrained(options.model)
    with model.stream(text=options.question, image=options.picture, reply="text") as answer:
        for chunk in answer:
            print(chunk.text, end="", flush=True)
except OmniError as error:
    sys.exit(f"describe_image.py: {error}")
print()
