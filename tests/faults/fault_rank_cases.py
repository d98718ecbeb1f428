"""Two ranks of which the second is hurt."""

import socket

from fault_data import image_folder
from fault_points import Fault
from fault_rows import LONG, Row
from fault_runs import end_of, results


def two_ranks(bench, faults, *, torchrun):
    """Hurt the second of two ranks, then let both go on.

    Args:
        bench: Where to run.
        faults: By name; each with ``rank=1``.
        torchrun: Whether torchrun starts the ranks; else they are forked, and each ends as it may.

    Returns:
        The row, and how each rank, or torchrun, ended, by name.
    """
    row, stops = Row("two ranks" + (", torchrun" if torchrun else "")), {}
    words = (*image_folder(bench.folder / "images"), *LONG)
    whole = bench.place()
    assert {each.status for each in _ranks(bench, words, whole, torchrun)} == {0}
    for name, fault in faults.items():
        output = bench.place()
        stops[name] = _ranks(bench, words, output, torchrun, fault)
        for each in stops[name]:
            row.count(name, each)
        ended = _ranks(bench, words, output, torchrun)
        assert {each.status for each in ended} == {0}, ended
        row.compare(results(whole), output)
    return row, stops


def _ranks(bench, words, output, torchrun, fault=None):
    if torchrun:
        return [bench.run(words, output, fault=fault, ranks=2)]
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    # Both look for the state before either starts.
    environments = [{**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    processes = [bench.start(words, output, fault=fault, environment=each) for each in environments]
    return [end_of(process) for process in processes]


RANK_FAULTS = {
    "killed": Fault("sample", count=9, rank=1),
    "3 seconds late": Fault("sample", count=9, action="sleep", amount=3, rank=1),
    "an error": Fault("sample", count=9, action="fail", rank=1),
}
