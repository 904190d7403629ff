"""The server as the released project starts it: `python server.py --ip 0.0.0.0 --port 60808`; also `omni2 serve`."""

import sys

from omni2.cli import app

if __name__ == "__main__":
    app(["serve", *sys.argv[1:]])
