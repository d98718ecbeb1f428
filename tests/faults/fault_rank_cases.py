"""Two ranks of which the second is hurt."""

from fault_data import image_folder
from fault_points import Fault
from fault_rows import LONG, Row
from fault_runs import end_of, results

from meeting import meeting_point


def two_ranks(bench, faults, *, torchrun, parallel="ddp"):
    """Hurt the second of two ranks, then let both go on.

    Args:
        bench: Where to run.
        faults: By name; each with ``rank=1``.
        torchrun: Whether torchrun starts the ranks; else they are forked, and each ends as it may.
        parallel: How the network lies on them.

    Returns:
        The row, and how each rank, or torchrun, ended, by name.
    """
    row, stops = Row(f"two ranks, {parallel}" + (", torchrun" if torchrun else "")), {}
    words = (*image_folder(bench.folder / "images"), *LONG, "--parallel", parallel)
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
    store, meeting = meeting_point()
    names = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
    # Both look for the state before either starts.
    processes = [bench.start(words, output, fault=fault, environment={**meeting, **each}) for each in names]
    ended = [end_of(process) for process in processes]
    # The ranks have met in it until here.
    del store
    return ended


RANK_FAULTS = {
    "killed": Fault("sample", count=9, rank=1),
    "3 seconds late": Fault("sample", count=9, action="sleep", amount=3, rank=1),
    "an error": Fault("sample", count=9, action="fail", rank=1),
}
