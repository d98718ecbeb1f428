"""Pickles of arrays are read without NumPy, and nothing else in one is."""

import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from nonlocalnn.checkpoints.restricted_pickle import loads

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(24, dtype=np.float64).reshape(2, 3, 4)),
    np.arange(6, dtype=np.int64)[::2],
    np.array(3.5, dtype=np.float16),
    np.array([True, False]),
    np.zeros((0, 3), dtype=np.int32),
    np.array([255], dtype=np.uint8),
    np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}-{array.shape}")
def test_arrays(array, protocol):
    found = loads(pickle.dumps({"a": [array, array, np.float32(2.5)]}, protocol=protocol))
    assert found["a"][0] is found["a"][1]
    assert torch.equal(found["a"][0], torch.from_numpy(np.ascontiguousarray(array)).view(array.shape))
    assert found["a"][2].item() == 2.5


def python2_array(raw, shape, dtype=b"f4", order=b"<"):
    """The pickle of {"a": array} that Python 2 writes: bytes are its plain strings."""
    sides = b"(" + b"".join(b"K" + bytes([side]) for side in shape) + b"t"
    return (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + sides
        + b"cnumpy\ndtype\nU" + bytes([len(dtype)]) + dtype + b"K\x00K\x01\x87R(K\x03U\x01" + order
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(raw)) + raw + b"tbs."
    )  # fmt: skip


def test_what_python_2_wrote():
    values = np.array([[1.5, -2.25]], dtype=np.float32)
    assert torch.equal(loads(python2_array(values.tobytes(), (1, 2)))["a"], torch.from_numpy(values))


class Runs:
    """What a malicious file holds: reading it would write a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


class Calls(Runs):
    def __reduce__(self):
        return (os.mkdir, (self.path,))


class Evaluates(Runs):
    def __reduce__(self):
        return (eval, (f"open({self.path!r}, 'w').close()",))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("kind", [Runs, Calls, Evaluates])
def test_nothing_is_run(tmp_path, kind, protocol):
    mark = tmp_path / "ran"
    content = {"conv1_w": np.zeros(3), "evil": kind(mark)}
    data = pickle.dumps(content, protocol=protocol)
    with pytest.raises(pickle.UnpicklingError, match="it asks for"):
        loads(data)
    assert not mark.exists()
    pickle.loads(data)  # the test can fail: what the file asks for does write one
    assert mark.exists()


def test_no_other_class_is_admitted():
    for content in ({1, 2}.__class__, np.random.default_rng, torch.zeros(1), complex(1, 2), slice(1)):
        with pytest.raises(pickle.UnpicklingError, match="it asks for"):
            loads(pickle.dumps(content, protocol=2))


RECONSTRUCT = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pickle.dumps(np.array([object()]), protocol=2), "'O8', not of numbers"),
        (python2_array(b"12345678", (1,), dtype=b"O8"), "of the type 'O8', not of numbers"),
        (python2_array(b"12345678", (1,), dtype=b"V8"), "of the type 'V8', not of numbers"),
        (python2_array(b"1234", (1,), order=b">"), "with the first byte highest"),
        (python2_array(b"1234", (250, 250, 250)), r"shape \(250, 250, 250\) with 4 bytes"),
        # A function's own attributes stay as they are.
        (RECONSTRUCT + b"}U\x01aK\x01sb.", "sets the state of a function"),
        (RECONSTRUCT + b")\x81.", "."),
        (b"\x80\x02cnumpy\nndarray\n)R.", "makes an array in an unknown way"),
        (b"\x80\x02}U\x01a" + RECONSTRUCT[2:] + b")Rs.", "an array without numbers"),
        # Each claims more than there is; believing it would take gigabytes.
        (b"\x80\x02}r" + struct.pack("<I", 2**31) + b".", "claims 2147483648 entries in 9 bytes"),
        (b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"}.", "claims 1099511627776 entries"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.", "1099511627776 bytes"),
        (b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"abc.", "expected 2147483647 bytes"),
        (b"", "."),
        (b"hello", "."),
        (b"\x80\x02}q\x00.extra"[:4], "."),
    ],
    ids=range(16),
)
def test_damage(data, says):
    with pytest.raises(pickle.UnpicklingError, match=says):
        loads(data)


def test_arrays_that_share_their_bytes_do_not_multiply_them():
    """A file that holds one string and a thousand arrays made of it is refused before they are."""
    one = python2_array(b"\0" * 1000, (250,))
    head, tail = one[: one.index(b"T\xe8")], one[one.index(b"T\xe8") :]
    string = tail[: 5 + 1000]
    begin = head[head.index(b"cnumpy.core") :]
    more = b"".join(b"U\x02" + f"{n:02}".encode() + begin + b"h\x00tbs" for n in range(99))
    with pytest.raises(pickle.UnpicklingError, match="more bytes than it has"):
        loads(head + string + b"q\x00tbs" + more + b".")


def test_a_list_in_itself_ends():
    content = [np.zeros(2)]
    content.append(content)
    found = loads(pickle.dumps(content, protocol=2))
    assert found[1] is found


def test_every_cut_is_refused():
    buffer = io.BytesIO()
    pickle.dump({"blobs": {"conv1_w": np.zeros((2, 3), dtype=np.float32)}}, buffer, protocol=2)
    data = buffer.getvalue()
    for length in range(len(data)):
        with pytest.raises(pickle.UnpicklingError):
            loads(data[:length])
