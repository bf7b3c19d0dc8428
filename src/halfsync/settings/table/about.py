"""What every setting says of itself beside its name, type and default."""

from typing import Literal

from msgspec import Meta

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


def about(
    section: str,
    description: str,
    *,
    unit: str = "",
    short: str = "",
    env: str = "",
    metavar: str = "",
    least: float | None = None,
    most: float | None = None,
    of_routes: str = "",
    of_sites: bool = False,
) -> Meta:
    """What is said of a setting beside its name, type and default. `of_routes`: sites and routes may have a
    value of their own, and of which routes it is: "applications", "files", "folders" or "all". `of_sites`:
    only sites may."""
    extra = {
        "section": section,
        "unit": unit,
        "short": short,
        "env": env,
        "metavar": metavar,
        "of_routes": of_routes,
        "of_sites": of_sites or bool(of_routes),
    }
    return Meta(description=description, ge=least, le=most, extra=extra)


SECTIONS = (
    "Serving",
    "TLS",
    "Access",
    "Processes",
    "Logging",
    "Time limits",
    "Size limits",
    "Files",
    "Leases",
    "HTTP/2",
    "WebSocket",
    "Development",
)

Level = Literal["debug", "info", "warning", "error", "critical"]
