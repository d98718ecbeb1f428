"""Small folders of sequences with labelled steps, drawn for tests: a class is a level, and one is a wave."""

import numpy as np

CLASSES = ("high", "low", "wave")


def draw(index, *, least=21, channels=2):
    """A sequence (channels, steps) and the name of the class of each step, in runs."""
    generator = np.random.default_rng(index)
    parts, labels = [], []
    while len(labels) < least + 3 * index % 40:
        name, steps = CLASSES[int(generator.integers(3))], int(generator.integers(6, 15))
        level = {"high": 1.0, "low": -1.0, "wave": 0.0}[name]
        values = np.full(steps, level)
        if name == "wave":
            values = np.where(np.arange(steps) % 2, 1.0, -1.0)
        parts.append(values)
        labels += [name] * steps
    line = np.concatenate(parts)
    noise = generator.normal(scale=0.1, size=(channels, len(line)))
    return (5 + 3 * line + noise).astype(np.float32), labels


def write_npz(path, indices, *, names=CLASSES):
    """Write sequences of different lengths, a step of which has no class."""
    drawn = [draw(index) for index in indices]
    lengths = np.array([len(labels) for _, labels in drawn])
    stacked = np.zeros((len(drawn), len(drawn[0][0]), lengths.max()), dtype=np.float32)
    ids = np.full((len(drawn), lengths.max()), -1)
    for row, (sequence, labels) in enumerate(drawn):
        stacked[row, :, : len(labels)] = sequence
        ids[row, : len(labels)] = [names.index(label) for label in labels]
    ids[:, 0] = -1
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, X=stacked, y=ids, lengths=lengths)
    return path


def write_csv(path, indices, *, header="id,time,a,b,label", divider=","):
    """Write sequences in long form, a row a step."""
    lines = [header.replace(",", divider)]
    for index in indices:
        sequence, labels = draw(index)
        for step, (values, label) in enumerate(zip(sequence.T.tolist(), labels, strict=True)):
            cells = {"id": f"s{index}", "time": f"{step / 10:g}", "label": label}
            cells |= dict(zip("ab", map(repr, values), strict=True))
            lines.append(divider.join(cells[name] for name in header.split(",")))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path
