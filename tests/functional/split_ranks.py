"""What each rank does in the tests of split positions: every case beside one process, and the bytes sent."""

import gc
import itertools
import re
import weakref

import pytest
import torch
import torch.distributed as dist
from torch import nn

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.functional import INSTANTIATIONS, non_local, ring
from nonlocalnn.functional.split import bytes_moved
from tolerances import assert_near

# Of each rank: uneven, and some without any.
QUERIES, KEYS = (7, 0, 4, 9), (3, 5, 0, 6)
BATCH, WIDTH, VALUES = 2, 5, 3


def run(rank, world_size, store, names):
    """Join the group and run the named cases."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    try:
        for name in names:
            torch.manual_seed(0)
            # Two or three queries and keys at a time: these maps are small, and most would be one tile.
            ring._TILE_NUMBERS = 18
            globals()[name](rank, world_size)
            dist.barrier()
    finally:
        dist.destroy_process_group()


def outlive_the_group(rank, store):
    """After the group's end nothing of ours keeps it: gloo's threads would run on, and abort the process."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=1)
    block, x = nl.NonLocal2d(4, sub_sample=None), torch.randn(1, 4, 3, 2, requires_grad=True)
    with nl.split_positions(dim="H"):
        block(x).sum().backward()
    group = weakref.ref(dist.group.WORLD)
    dist.destroy_process_group()
    gc.collect()
    assert group() is None


def operator(rank, world_size):
    """Values and gradients of each form, in float64, beside the equation over everything."""
    queries, keys = QUERIES[:world_size], KEYS[:world_size]
    for form, scale in [*((form, None) for form in INSTANTIATIONS), ("embedded_gaussian", 0.3)]:
        shapes = ((sum(queries), WIDTH), (sum(keys), WIDTH), (sum(keys), VALUES))
        # Far apart, so that the running maximum moves.
        wholes = [3 * torch.randn(BATCH, *shape, dtype=torch.float64) for shape in shapes]
        w_f = torch.randn(2 * WIDTH, dtype=torch.float64) if form == "concatenation" else None
        settings = {"instantiation": form, "w_f": w_f, "scale": scale}
        dy = torch.randn(BATCH, sum(queries), VALUES, dtype=torch.float64)
        expected_of = [whole.clone().requires_grad_() for whole in wholes]
        expected = non_local(*expected_of, engine="reference", **settings)
        expected.backward(dy)
        counts = (queries, keys, keys)
        mine = [
            whole.split(count, 1)[rank].clone().requires_grad_()
            for whole, count in zip(wholes, counts, strict=True)
        ]
        y = non_local(*mine, process_group=dist.group.WORLD, **settings)
        y.backward(dy.split(queries, 1)[rank])
        assert_near(y, expected.split(queries, 1)[rank], says=form)
        shares = zip(expected_of, counts, strict=True)
        gradients = [whole.grad.split(count, 1)[rank] for whole, count in shares]
        assert_near([part.grad for part in mine], gradients, says=form)


def masked(rank, world_size):
    """The same with key masks: some keys, one on the last rank alone, none; what is masked may be NaN."""
    queries, keys = QUERIES[:world_size], KEYS[:world_size]
    mask = torch.rand(3, sum(keys)) < 0.6
    mask[1], mask[1, -1], mask[2] = False, True, False
    for form in INSTANTIATIONS:
        shapes = ((sum(queries), WIDTH), (sum(keys), WIDTH), (sum(keys), VALUES))
        wholes = [3 * torch.randn(3, *shape, dtype=torch.float64) for shape in shapes]
        for whole in wholes[1:]:
            whole[~mask] = torch.nan
        w_f = torch.randn(2 * WIDTH, dtype=torch.float64) if form == "concatenation" else None
        settings = {"instantiation": form, "w_f": w_f}
        dy = torch.randn(3, sum(queries), VALUES, dtype=torch.float64)
        expected_of = [whole.clone().requires_grad_() for whole in wholes]
        expected = non_local(*expected_of, key_mask=mask, engine="reference", **settings)
        expected.backward(dy)
        counts = (queries, keys, keys)
        mine = [
            whole.split(count, 1)[rank].clone().requires_grad_()
            for whole, count in zip(wholes, counts, strict=True)
        ]
        own = mask.split(keys, 1)[rank]
        y = non_local(*mine, key_mask=own, process_group=dist.group.WORLD, **settings)
        y.backward(dy.split(queries, 1)[rank])
        assert_near(y, expected.split(queries, 1)[rank], says=form)
        assert not y[2].any()
        shares = zip(expected_of, counts, strict=True)
        gradients = [whole.grad.split(count, 1)[rank] for whole, count in shares]
        assert_near([part.grad for part in mine], gradients, says=form)


def heads(rank, world_size):
    """Heads over the ranks, with masks and without."""
    queries, keys = QUERIES[:world_size], KEYS[:world_size]
    whole_mask = torch.rand(BATCH, sum(keys)) < 0.6
    for form, is_masked in itertools.product(INSTANTIATIONS, (False, True)):
        wholes = [torch.randn(BATCH, sum(count), 6, dtype=torch.float64) for count in (queries, keys, keys)]
        w_f = torch.randn(12, dtype=torch.float64) if form == "concatenation" else None
        settings = {"instantiation": form, "w_f": w_f, "num_heads": 3}
        mask = whole_mask if is_masked else None
        expected = non_local(*wholes, key_mask=mask, engine="reference", **settings)
        mine = [
            whole.split(count, 1)[rank] for whole, count in zip(wholes, (queries, keys, keys), strict=True)
        ]
        own = mask.split(keys, 1)[rank] if is_masked else None
        y = non_local(*mine, key_mask=own, process_group=dist.group.WORLD, **settings)
        assert_near(y, expected.split(queries, 1)[rank], says=form)


def masked_blocks(rank, world_size):
    """Blocks with heads, a mask and a context over shares of a map; and sizes of each rank's part."""
    sides = (4, 2, 6, 5)[:world_size]
    total, other = sum(sides), 2 * world_size
    mask = torch.zeros(3, total, 5, dtype=torch.bool)
    # One sample ends on the first rank, and one has windows that are whole on the others' shares only.
    mask[0, :3, :3], mask[1, :, :4], mask[2, : total - 1] = True, True, True
    for form, sub_sample in itertools.product(INSTANTIATIONS, ("after", "before", None)):
        settings = {"instantiation": form, "sub_sample": sub_sample, "norm": None, "num_heads": 2}
        block = randomize_(nl.NonLocal2d(4, **settings)).double()
        whole = torch.randn(3, 4, total, 5, dtype=torch.float64)
        own = mask.split(sides, 1)[rank]
        with nl.split_positions(dim="H"):
            z = block(whole.split(sides, 2)[rank], key_mask=own)
        assert_near(z, block(whole, key_mask=mask).split(sides, 2)[rank], says=f"{form} {sub_sample}")
        context = torch.randn(3, 4, other, 3, dtype=torch.float64)
        with nl.split_positions(dim="H"):
            z = block(whole.split(sides, 2)[rank], context.split(2, 2)[rank])
        assert_near(z, block(whole, context).split(sides, 2)[rank], says=f"{form} {sub_sample} context")
    # The same by sizes: on each rank those of its own part.
    ends = [3, total, total - 1]
    begin = sum(sides[:rank])
    sizes = [
        (min(max(end - begin, 0), sides[rank]), width) for end, width in zip(ends, (3, 4, 5), strict=True)
    ]
    with nl.split_positions(dim="H"), nl.real_positions(sizes, (sides[rank], 5)):
        z = block(whole.split(sides, 2)[rank])
    assert_near(z, block(whole, key_mask=mask).split(sides, 2)[rank], says="sizes")


def synced_norm(rank, world_size):
    """A synchronised norm takes the statistics of the real positions of all ranks."""
    block = randomize_(nl.NonLocal1d(4, sub_sample=None)).double().train()
    x, mask = torch.randn(2 * world_size, 4, 7, dtype=torch.float64), torch.rand(2 * world_size, 7) < 0.6
    expected = block(x, key_mask=mask)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(block)
    before = synced.norm.running_mean.clone()
    share = slice(2 * rank, 2 * rank + 2)
    mine = x[share].clone().requires_grad_()
    z = synced(mine, key_mask=mask[share])
    assert_near(z, expected[share], says="synchronised")
    assert not torch.equal(synced.norm.running_mean, before)
    z.square().sum().backward()
    whole = x.clone().requires_grad_()
    twin = randomize_(nl.NonLocal1d(4, sub_sample=None)).double().train()
    twin.load_state_dict(synced.state_dict())
    twin(whole, key_mask=mask).square().sum().backward()
    assert_near(mine.grad, whole.grad[share], says="gradients through the statistics")


def half_precision(rank, world_size):
    """bfloat16 in, bfloat16 out, sums in float32."""
    queries, keys = QUERIES[:world_size], KEYS[:world_size]
    for form in INSTANTIATIONS:
        wholes = [torch.randn(1, sum(count), 4).bfloat16() for count in (queries, keys, keys)]
        w_f = torch.randn(8) if form == "concatenation" else None
        expected = non_local(*wholes, instantiation=form, w_f=w_f, engine="reference")
        mine = [
            whole.split(count, 1)[rank] for whole, count in zip(wholes, (queries, keys, keys), strict=True)
        ]
        y = non_local(*mine, instantiation=form, w_f=w_f, process_group=dist.group.WORLD)
        assert y.dtype == torch.bfloat16
        assert_near(y, expected.split(queries, 1)[rank])


def blocks(rank, world_size):
    """Blocks over shares of a map along each axis: outputs, and gradients summed over the ranks."""
    cases = [
        (nl.NonLocal3d, "T", 2, (5, 1, 2, 3), {}),
        (nl.NonLocal3d, "T", 2, (5, 1, 2, 3), {"extent": "space"}),
        (nl.NonLocal3d, "T", 2, (2, 4, 2, 3), {"extent": "time"}),
        (nl.NonLocal3d, "H", 3, (4, 2, 2, 3), {}),
        (nl.NonLocal3d, "W", 4, (4, 2, 2, 3), {"extent": "space", "sub_sample": "before"}),
        (nl.NonLocal3d, "H", 3, (1, 3, 2, 1), {"extent": "time"}),
        (nl.NonLocal3d, "W", 4, (1, 3, 2, 1), {"extent": 2, "sub_sample": None}),
        (nl.NonLocal2d, "H", 2, (2, 4, 2, 5), {}),
        (nl.NonLocal2d, "W", 3, (3, 1, 2, 5), {"sub_sample": None}),
        (nl.NonLocal1d, "N", 2, (2, 4, 2, 5), {}),
    ]
    for (kind, dim, axis, sides, settings), form in itertools.product(cases, INSTANTIATIONS):
        sides = sides[:world_size]
        shape = [2, 6, *{1: (0,), 2: (6, 4), 3: (4, 6, 4)}[kind._num_sides]]
        shape[axis] = sum(sides)
        block = randomize_(kind(6, instantiation=form, **settings)).double().eval()
        whole = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        dz = torch.randn(shape, dtype=torch.float64)
        expected = block(whole)
        expected.backward(dz)
        expected_grads = [parameter.grad.clone() for parameter in block.parameters()]
        block.zero_grad()
        mine = whole.detach().split(sides, axis)[rank].clone().requires_grad_()
        with nl.split_positions(dim=dim):
            z = block(mine)
        z.backward(dz.split(sides, axis)[rank])
        what = f"{kind.__name__} {dim} {settings} {form}"
        assert_near(z, expected.split(sides, axis)[rank], says=what)
        assert_near(mine.grad, whole.grad.split(sides, axis)[rank], says=what)
        totals = [torch.zeros_like(part) if part.grad is None else part.grad for part in block.parameters()]
        for total in totals:
            dist.all_reduce(total)
        assert_near(totals, expected_grads, says=what)


def network(rank, world_size):
    """A network whose other layers look at frames one by one: one long clip over the ranks."""
    model = nn.Sequential(
        nn.Conv3d(3, 8, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
        nn.BatchNorm3d(8),
        nn.ReLU(inplace=True),
        nl.NonLocal3d(8),
        nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1)),
        nl.NonLocal3d(8, instantiation="concatenation"),
    )
    randomize_(model).double().eval()
    frames = (3, 1, 2, 4)[:world_size]
    clip = torch.randn(1, 3, sum(frames), 8, 8, dtype=torch.float64)
    with nl.split_positions():
        mine = model(clip.split(frames, 2)[rank])
        mean = mine.mean((3, 4)).sum(2)
        dist.all_reduce(mean)
    expected = model(clip)
    assert_near(mine, expected.split(frames, 2)[rank], says="network")
    assert_near(mean / sum(frames), expected.mean((2, 3, 4)), says="mean")
    # Outside of the context a block sees its own part alone.
    alone = model(clip.split(frames, 2)[rank])
    assert world_size == 1 or not torch.allclose(alone, mine)


def subgroups(rank, world_size):
    """Two groups of two ranks, numbered other than the world's: each computes its own map."""
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    group, place = groups[rank % 2], rank // 2
    for form in ("embedded_gaussian", "dot_product", "concatenation"):
        torch.manual_seed(rank % 2)
        block = randomize_(nl.NonLocal1d(4, instantiation=form, sub_sample=None)).double().eval()
        x = torch.randn(1, 4, 9, dtype=torch.float64)
        with nl.split_positions(group, dim="N"):
            z = block(x.split((4, 5), 2)[place])
        assert_near(z, block(x).split((4, 5), 2)[place], says=form)


def errors(rank, world_size):
    """Every rank refuses what does not fit; none waits for another."""
    group = dist.group.WORLD
    part = torch.randn(1, 2, 3)
    one = {"instantiation": "dot_product", "process_group": group}
    mask = torch.ones(1, 2, dtype=bool) if rank else None
    says = "all ranks must have one number of key masks, 0 or 1 each; they have [0, 1]"
    refused(says, non_local, part, part, part, key_mask=mask, **one)
    refused("take no engine='reference'", non_local, part, part, part, engine="reference", **one)
    empty = torch.randn(1, 0, 3)
    refused("phi must hold at least one key on some rank; got none", non_local, part, empty, empty, **one)
    sized = torch.randn(1 + rank, 2, 3)
    listed = list(range(1, world_size + 1))
    refused(f"all ranks must have one batch size; they have {listed}", non_local, sized, sized, sized, **one)
    wide = torch.randn(1, 2, 3 + rank)
    refused("all ranks must have one D; they have", non_local, wide, wide, part, **one)
    refused("all ranks must have one E; they have", non_local, part, part, wide, **one)
    clip = torch.randn(1, 2, 4, 4, 4)
    for block, dim, sides, says in [
        (
            nl.NonLocal3d(2),
            "N",
            clip,
            "positions are split along 'N', and this block's maps have T, H, W only",
        ),
        (nl.NonLocal3d(2, extent=2), "T", clip, "a block with extent=2 groups frames, which are split"),
        (nl.NonLocal3d(2), "H", clip[:, :, :, : 3 if rank == 0 else 4], "of which this rank holds 3"),
        (nl.NonLocal3d(2), "W", clip[..., : 4 if rank == 0 else 1], "of which this rank holds 1"),
        (
            nl.NonLocal3d(2, extent="time"),
            "T",
            clip[:, :, : 3 if rank == 0 else 4],
            "of which this rank holds 3",
        ),
    ]:
        is_meant = "holds" not in says or sides.shape != clip.shape
        with nl.split_positions(dim=dim):
            # The other ranks would wait for this one: they do not begin.
            if is_meant:
                refused(says, block, sides)
    refused("dim must be one of 'N', 'T', 'H', 'W'; got 'X'", nl.split_positions(dim="X").__enter__)


def traffic(rank, world_size):
    """The bytes that each rank sends are those of the formula; collectives by their ring algorithms."""
    sizes = {"num_queries": 24 * world_size, "num_keys": 12 * world_size, "width": 6, "num_values": 6}
    others = world_size - 1
    for form in ("embedded_gaussian", "dot_product", "concatenation"):
        sent = []
        operations = {
            "isend": lambda tensor, *_, **__: tensor.nbytes,
            "all_reduce": lambda tensor, *_, **__: 2 * tensor.nbytes * others / world_size,
            "all_gather": lambda parts, part, *_, **__: part.nbytes * others,
            "reduce_scatter_tensor": lambda mine, whole, *_, **__: mine.nbytes * others,
        }
        originals = {name: getattr(dist, name) for name in operations}

        def counting(name, sent=sent, operations=operations, originals=originals):
            def call(*arguments, **named):
                # The counts that ranks tell each other first are a few numbers, and no part of the formula.
                if not (name == "all_gather" and arguments[1].dtype == torch.int64):
                    sent.append(operations[name](*arguments, **named))
                return originals[name](*arguments, **named)

            return call

        for name in operations:
            setattr(dist, name, counting(name))
        # batch_isend_irecv compares with the functions themselves.
        batch = dist.batch_isend_irecv

        def begin(todo, sent=sent, originals=originals, batch=batch):
            for each in todo:
                is_send = each.op.__name__ in ("isend", "call") and each.tensor is not None
                sent.append(each.tensor.nbytes if is_send and each is todo[0] else 0)
            return batch(todo)

        dist.isend = originals["isend"]
        dist.batch_isend_irecv = begin
        try:
            w_f = torch.randn(12) if form == "concatenation" else None
            theta = torch.randn(1, 24, 6, requires_grad=True)
            phi, g = (torch.randn(1, 12, 6, requires_grad=True) for _ in range(2))
            y = non_local(theta, phi, g, instantiation=form, w_f=w_f, process_group=dist.group.WORLD)
            y.sum().backward()
        finally:
            for name, original in originals.items():
                setattr(dist, name, original)
            dist.batch_isend_irecv = batch
        expected = bytes_moved(form, num_ranks=world_size, **sizes)
        assert sum(sent) == expected, (form, sum(sent), expected)


def refused(says, call, *arguments, **named):
    """Check that a call raises a ValueError that says so."""
    with pytest.raises(ValueError, match=re.escape(says)):
        call(*arguments, **named)
