"""Tools for tests of GoDrive and of applications that embed it: drives, a clock, loopback refs, probes, faults."""

from godrive.testing.drives import (
    QUICK,
    LoopbackDrive,
    LoopbackRef,
    ManualClock,
    chunks,
    open_drive,
    quick_config,
    sign_up,
    upload,
)
from godrive.testing.faults import FaultPoints
from godrive.testing.folders import lay_catalog, quick_folder
from godrive.testing.probe import Probe

__all__ = [
    "QUICK",
    "FaultPoints",
    "LoopbackDrive",
    "LoopbackRef",
    "ManualClock",
    "Probe",
    "chunks",
    "lay_catalog",
    "open_drive",
    "quick_config",
    "quick_folder",
    "sign_up",
    "upload",
]
