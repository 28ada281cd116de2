"""Import the half of aiohttp that a server needs.

``aiohttp/__init__.py`` imports the client too, for the names that it exports
from it.  That is a quarter of what a start of the server costs, and parses the
certificates of all authorities, while few configurations ever use the client.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec
from typing import Any


def postpone_client() -> None:
    """Have ``aiohttp`` run its ``__init__`` when a name is used that is not one of its modules, as ``ClientSession``.

    ``aiohttp.web`` and other modules are imported without it.  Only for a program, before it imports aiohttp;
    does nothing afterwards.
    """
    if "aiohttp" in sys.modules:
        return
    spec = find_spec("aiohttp")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("aiohttp is not installed", name="aiohttp")
    loader, module = spec.loader, module_from_spec(spec)
    lock = threading.RLock()
    begun = False

    def find(name: str) -> Any:
        nonlocal begun
        try:
            return import_module(f"aiohttp.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"aiohttp.{name}":
                raise
        with lock:
            if not begun:  # else it is the __init__ that asks, or another thread was first
                begun = True
                loader.exec_module(module)
        if name in (names := vars(module)):
            return names[name]
        if names["__getattr__"] is not find:  # it has brought one of its own
            return names["__getattr__"](name)
        raise AttributeError(f"module 'aiohttp' has no attribute {name!r}", name=name, obj=module)

    vars(module).update(__getattr__=find, __version__=version("aiohttp"))  # its own modules ask for the version
    sys.modules["aiohttp"] = module
