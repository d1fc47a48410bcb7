"""python -m tests.lab VERB: builds, starts, shows and removes the lab of this clone."""

from __future__ import annotations

import argparse
import sys

from tests.lab import inventory, up
from tests.lab.api import Lab
from tests.lab.proc import locked
from tests.lab.settings import LabError, Settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, step in up.STEPS.items():
        verbs.add_parser(name, help=(step.__doc__ or "").splitlines()[0])
    hosts = verbs.add_parser("inventory", help="keys, inventory and pins for the hosts")
    hosts.add_argument("--hosts", type=int, metavar="N")
    whole = verbs.add_parser("up", help="everything, with progress: all of the above, then playbooks/lab.yml")
    whole.add_argument("--hosts", type=int, default=1, metavar="N")
    fresh = verbs.add_parser("recreate", help="bare hosts again: container and volumes made anew")
    fresh.add_argument("host", nargs="+")
    verbs.add_parser("reboot", help="reboots a host and waits for it").add_argument("host", nargs="+")
    verbs.add_parser("env", help='variables for a shell: eval "$(python -m tests.lab env)"').add_argument(
        "--json", action="store_true"
    )
    verbs.add_parser("status", help="what runs")
    verbs.add_parser("down", help="removes the lab, but not the cache of its builds")
    return parser


def main() -> int:
    """Runs one verb; says in its last line whether it changed anything."""
    given = _parser().parse_args()
    settings = Settings()
    verb: str = given.verb
    if verb == "status":
        print(up.status(settings))
        return 0
    if verb == "env":
        print(Lab.load(settings).env(as_json=given.json))
        return 0
    if verb == "up":
        changed = up.up(settings, given.hosts)
    elif verb in ("recreate", "reboot"):
        lab = Lab.load(settings)
        changed = True
        if verb == "recreate":
            lab.recreate(*given.host)
        for host in given.host if verb == "reboot" else ():
            lab.reboot(host)
    else:
        with locked(settings.lock):
            if verb == "inventory":
                changed = inventory.up(settings, given.hosts)
            else:
                changed = up.down(settings) if verb == "down" else up.STEPS[verb](settings)
    print(f"{'changed' if changed else 'ok'}: {verb}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"lab: {error}")
