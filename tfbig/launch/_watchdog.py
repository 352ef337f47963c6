"""The program that stops the tasks if the launcher dies without stopping them.

It does not import the package, so that it starts quickly. Each line of standard input is "+4711"
for a process group that has started, or "-4711" for one that has ended. The input ends when the
launcher dies for any reason, including SIGKILL; the program then stops all remaining groups.

prctl(PR_SET_PDEATHSIG) of Linux is not enough: it kills the task only, not the processes that the
task has started, and it gives the task no time to save.
"""

import os
import signal
import sys
import time

_SECONDS_TO_SAVE = 15.0


def main() -> None:
    """Waits for the end of the launcher, and then stops the groups that are still running."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a signal to all processes reaches this one too
    groups = set()
    for line in sys.stdin:
        change = groups.add if line.startswith("+") else groups.discard
        change(int(line[1:]))
    deadline = time.monotonic() + _SECONDS_TO_SAVE
    signal_groups(groups, signal.SIGTERM)
    while groups and time.monotonic() < deadline:
        time.sleep(0.1)
        signal_groups(groups, 0)
    signal_groups(groups, signal.SIGKILL)


def signal_groups(groups: set, number: int) -> None:
    """Sends a signal to all groups, and removes those that no longer exist from the set."""
    for group in list(groups):
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            groups.discard(group)


if __name__ == "__main__":
    main()
