"""Tokens, instructions and preferences to checkpoints and adapters. Ray only in launch.py."""

import logging

# On a CPU bitsandbytes, which PEFT imports, warns of a kernel that it would fetch from a hub; it works without.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
