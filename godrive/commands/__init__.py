"""The subcommands of ``godrive``: each module registers its arguments and what they run."""

from __future__ import annotations

import argparse
from typing import TypeAlias

# In quotes: what argparse hands out is generic to the type checker only.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
