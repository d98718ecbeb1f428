"""Damage to bytes: what a bad disk, a bad transfer or a bad person does to a file."""

import random

from hypothesis import strategies as st

KINDS = ("flip", "set", "cut", "insert", "delete", "repeat", "swap", "number", "zeros")
# Numbers that sizes, offsets and counts are made wrong by.
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)


def mutations(most=4):
    """Return a strategy of lists of changes; (kind, where, how) each, with any whole numbers."""
    change = st.tuples(st.sampled_from(KINDS), st.integers(0, 2**30), st.integers(0, 2**16))
    return st.lists(change, min_size=1, max_size=most).map(tuple)


def mutated(data, changes):
    """Return bytes with the changes made, one after another."""
    data = bytearray(data)
    for kind, where, how in changes:
        if not data:
            break
        # Half of them where formats keep their sizes and names: in the first or last parts of a file.
        part, length = where % 4, len(data)
        reach = length if part < 2 else min(length, 2000)
        place = (where // 4) % reach
        place = length - 1 - place if part == 3 else place
        _change(data, kind, place, how)
    return bytes(data)


def _change(data, kind, place, how):
    length = 1 + how % 64
    if kind == "flip":
        data[place] ^= 1 << how % 8
    elif kind == "set":
        data[place] = how % 256
    elif kind == "cut":
        del data[place:]
    elif kind == "insert":
        data[place:place] = random.Random(how).randbytes(length)
    elif kind == "delete":
        del data[place : place + length]
    elif kind == "repeat":
        data[place:place] = data[place : place + length] * (1 + how % 50)
    elif kind == "swap":
        other = random.Random(how).randrange(len(data))
        data[place : place + length], data[other : other + length] = (
            data[other : other + length],
            data[place : place + length],
        )
    elif kind == "number":
        number, width = NUMBERS[how % len(NUMBERS)], (1, 2, 4, 8)[how // 16 % 4]
        order = "little" if how // 64 % 2 else "big"
        data[place : place + width] = (number % 256**width).to_bytes(width, order)
    else:
        data[place : place + length] = bytes(length)
