"""Small tar archives for tests."""

import io
import tarfile


def pack(path, members, **header):
    """Write members, pairs of a name and bytes, as an archive; fields of their headers are as given."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in header.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))
    return path
