# SPDX-License-Identifier: Apache-2.0
"""The machine itself: processor, memory, disk, temperature, clock, against the thresholds.

psutil is imported with the first question; what a hardened unit hides (ProcSubset=pid) is
reported as unknown and breaks no threshold.
"""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgepaas.health.clock import judge_clock

if TYPE_CHECKING:
    from edgepaas.settings import Settings

THERMAL = Path("/sys/class/thermal")
CGROUPS = Path("/sys/fs/cgroup")
#: Version 1 says "none" by the largest number of whole pages; no machine has half of it.
_NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class Measure:
    """One measured thing; *value* is None where the machine does not tell."""

    name: str
    value: float | None
    unit: Literal["percent", "celsius"]
    threshold: float

    @property
    def broken(self) -> bool:
        """Whether the value has reached its threshold."""
        return self.value is not None and self.value >= self.threshold

    def as_dict(self) -> dict[str, object]:
        """Return the measure as ``/health/system`` shows it."""
        return {
            "value": self.value,
            "unit": self.unit,
            "threshold": self.threshold,
            "ok": None if self.value is None else not self.broken,
        }


@dataclass(frozen=True)
class SystemReport:
    """All measures, and whether the clock can be trusted (None: cannot be known)."""

    measures: tuple[Measure, ...]
    clock_trusted: bool | None
    clock_message: str

    @property
    def ok(self) -> bool:
        """Whether no threshold is broken; the clock is only reported."""
        return not any(measure.broken for measure in self.measures)

    def as_dict(self) -> dict[str, object]:
        """Return the report as ``/health/system`` shows it."""
        return {
            "status": "ok" if self.ok else "degraded",
            **{measure.name: measure.as_dict() for measure in self.measures},
            "clock": {"trusted": self.clock_trusted, "message": self.clock_message},
        }


class SystemMeter:
    """Measures the machine; a report is kept for *cache_seconds*, so that a storm is one."""

    def __init__(
        self,
        settings: "Settings",
        state_folder: Path,
        *,
        cache_seconds: float = 1.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._folder = state_folder
        self._keep = cache_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._report: SystemReport | None = None
        self._at = 0.0
        self._asked_before = False

    def report(self) -> SystemReport:
        """Return the report; takes up to a fifth of a second the first time."""
        with self._lock:
            if self._report is None or self._clock() - self._at >= self._keep:
                self._report = self._measure()
                self._at = self._clock()
            return self._report

    def _measure(self) -> SystemReport:
        threshold = self._settings.number
        clock = judge_clock()
        disk = disk_percent(self._folder)
        return SystemReport(
            measures=(
                Measure("cpu", self._cpu_percent(), "percent", threshold("CPU_THRESHOLD")),
                Measure("memory", memory_percent(), "percent", threshold("MEMORY_THRESHOLD")),
                Measure("disk", disk, "percent", threshold("DISK_THRESHOLD")),
                Measure(
                    "temperature", temperature(), "celsius", threshold("TEMPERATURE_THRESHOLD")
                ),
            ),
            clock_trusted=clock.trusted,
            clock_message=clock.message,
        )

    def _cpu_percent(self) -> float | None:
        """Return how busy the processors were since the last call."""
        try:
            import psutil

            # The first call has nothing to compare with and would say 0.
            interval = None if self._asked_before else 0.2
            self._asked_before = True
            return float(psutil.cpu_percent(interval=interval))
        except (ImportError, OSError, ValueError, IndexError, KeyError):
            return None


def memory_percent(cgroups: Path = CGROUPS) -> float | None:
    """Return how much of the memory is in use and not available, in percent.

    In a container with a limit of its own: of the machine's or of the limit, whichever is
    nearer to its end.
    """
    known = []
    try:
        import psutil

        known.append(float(psutil.virtual_memory().percent))
    except (ImportError, OSError, ValueError, KeyError):
        pass  # unknown, as the summary says
    if (limited := container_memory_percent(cgroups)) is not None:
        known.append(limited)
    return max(known, default=None)


def container_memory_percent(cgroups: Path = CGROUPS) -> float | None:
    """Return how much of the container's memory limit is in use; None where there is none.

    The files at the top are a container's own (cgroup-v2.rst: memory.max, absent from the
    machine's root; cgroup-v1/memory.rst). What the kernel may drop at once, files that were
    not read lately, is not in use.
    """
    for limit, usage, inactive in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((cgroups / limit).read_text(encoding="ascii"))
            used = int((cgroups / usage).read_text(encoding="ascii"))
            lines = (cgroups / usage).with_name("memory.stat").read_text(encoding="ascii")
            used -= int(dict(line.split() for line in lines.splitlines())[inactive])
        except (OSError, ValueError, KeyError):
            continue  # not this version, or "max"
        if 0 < most < _NO_LIMIT:
            return round(max(0.0, 100 * used / most), 1)
    return None


def disk_percent(folder: Path) -> float | None:
    """Return how full the file system of *folder* is for us, in percent."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    ours = usage.used + usage.free  # what is kept for root counts as neither
    return round(100 * usage.used / ours, 1) if ours else None


def temperature(zones: Path = THERMAL) -> float | None:
    """Return the hottest thermal zone in degrees Celsius; None where there is none.

    The kernel gives thousandths (Documentation/driver-api/thermal/sysfs-api.rst); a
    zone without a sensor gives errors or nonsense, which is left out.
    """
    hottest: float | None = None
    try:
        found = sorted(zones.glob("thermal_zone*/temp"))
    except OSError:
        return None
    for zone in found:
        try:
            celsius = int(zone.read_text(encoding="ascii")) / 1000
        except (OSError, ValueError):
            continue
        if -40 < celsius < 200 and (hottest is None or celsius > hottest):
            hottest = celsius
    return hottest
