"""Where the ranks of a test meet."""

from torch.distributed import TCPStore


def meeting_point():
    """Return a store, to be kept while the ranks run, and the variables by which they find it.

    As torchrun does, the process that starts the ranks listens before they do. A port that is only chosen
    here and opened by the first rank, seconds later, may be another test's by then.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    variables = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    return store, variables
