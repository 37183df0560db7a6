"""Set before any environment is imported: tests run on machines with neither screen nor sound."""

import os
import signal

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")

# A shell that runs the tests in the background has them ignore Ctrl-C, and all that they start. Some
# of them are about Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
