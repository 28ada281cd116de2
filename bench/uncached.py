"""Run GoDrive without its cache of encoded pages: ``python bench/uncached.py serve ...``, so every list is read anew.

Imports nothing of the benchmarks, because it also runs in trees that have other ones.
"""

from __future__ import annotations

import runpy

from godrive.http.api import page_cache

if __name__ == "__main__":
    page_cache.LARGEST = -1  # no page is small enough to be kept
    runpy.run_module("godrive", run_name="__main__", alter_sys=True)
