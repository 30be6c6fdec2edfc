"""Our SuperNode, for which the first message's run ends while its parts are fetched."""

import itertools
import time

from flwr.supercore.run import RunNotRunningException

from deploy import supernode

CLIENTAPP_ASKS_SECONDS = 2.0
"""Time after which a ClientApp that has begun waits for the parts of its message."""
fetch = supernode.fetch_message
numbers = itertools.count()


def fetch_amid_the_end(*, state, pull_object, **others):
    """Fetch a message; the first part that is asked for finds the run ended, as the SuperLink would say."""

    def pull(run_id, name):
        if next(numbers) == 0:
            while not any(task.running_at for task in state.get_tasks()):
                time.sleep(0.1)
            time.sleep(CLIENTAPP_ASKS_SECONDS)
            raise RunNotRunningException
        return pull_object(run_id, name)

    return fetch(state=state, pull_object=pull, **others)


if __name__ == "__main__":
    supernode.fetch_message = fetch_amid_the_end
    supernode.main()
