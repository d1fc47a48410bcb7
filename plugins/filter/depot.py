"""What a run with a depot has carried: from the wide network once, to each host over the local one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

KINDS = ("images", "models")


def depot_bytes(
    filled: Mapping[str, Iterable[Mapping[str, Any]]], closed: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """`filled`: kind -> results of the fetches; `closed`: host -> result of the door's closing. Bytes.

    Returns {wan: {images, models, total}, lan: {HOST: {images, models, total}}}.
    """

    def whole(counts: Mapping[str, int]) -> dict[str, int]:
        kinds = {kind: int(counts.get(kind, 0)) for kind in KINDS}
        return {**kinds, "total": sum(kinds.values())}

    wan = {kind: sum(int(r.get("received", 0)) for r in filled.get(kind, [])) for kind in KINDS}
    return {"wan": whole(wan), "lan": {host: whole(r.get("sent", {})) for host, r in closed.items()}}


def depot_table(carried: Mapping[str, Any]) -> list[str]:
    """The same as lines, in megabytes."""
    rows = [("from registry and hub", carried["wan"]), *((f"to {h}", n) for h, n in carried["lan"].items())]
    width = max(len(name) for name, _ in rows)
    head = f"{'MB':{width}}" + "".join(f"{kind:>12}" for kind in (*KINDS, "total"))
    return [
        head,
        *(
            f"{name:{width}}" + "".join(f"{n[kind] / 1e6:12.1f}" for kind in (*KINDS, "total"))
            for name, n in rows
        ),
    ]


class FilterModule:
    """Filters of role depot."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names in templates."""
        return {"depot_bytes": depot_bytes, "depot_table": depot_table}
