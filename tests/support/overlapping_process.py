# SPDX-License-Identifier: Apache-2.0
"""A process of a box that serves beside another one: appends what it is told, and compares marks.

python -m tests.support.overlapping_process URL     # a line a request: its number, ids of readings
"""

import queue
import sys
import threading
import uuid

from edgepaas.errors import DatabaseError
from edgepaas.files.paths import find_paths
from tests.support.journaled_box import MORNING, append, journaled_box, reading

#: Requests that are worked on at once.
THREADS = 3


def main() -> None:
    """Serve until the input ends."""
    over, answering = threading.Event(), threading.Lock()
    requests: queue.Queue[str] = queue.Queue()
    with journaled_box(find_paths(), sys.argv[1]) as box:

        def answer(line: str) -> None:
            with answering:
                print(line, flush=True)

        def look() -> None:
            while not over.wait(0.1):
                try:
                    box.look()
                    box.journal.flush()
                except DatabaseError as error:
                    print(f"look: {error}", file=sys.stderr, flush=True)

        def serve() -> None:
            while line := requests.get():
                number, *ids = line.split()
                try:
                    append(box.database, [reading(uuid.UUID(one)) for one in ids], stamp=MORNING)
                    answer(f"{number} ok")
                except DatabaseError as error:
                    answer(f"{number} refused: {error}")

        threads = [threading.Thread(target=serve) for _ in range(THREADS)]
        looking = threading.Thread(target=look)
        looking.start()
        answer("0 ready")
        for thread in threads:
            thread.start()
        for line in sys.stdin:
            requests.put(line)
        for _ in threads:
            requests.put("")
        for thread in threads:
            thread.join()
        over.set()
        looking.join()


if __name__ == "__main__":
    main()
