"""The plan of the house in numbers: rooms, floors, circles, lines, and the files of four journeys.

``python -m benchmarks plan [--package DIR] [--journeys] [--json]``. A *room* is a folder or a file directly
in the package. A room's *floor* is the longest chain of rooms below it, imports inside functions included
and those for type checkers left out. A *circle* is a group of files that import each other. A *journey* is a
thing that users do; it is run, and the package's files are counted in which a function ran, but for what
ran because a module was imported.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from nonlocalnn.cli.flags import CommandParser

_PACKAGE = Path(__file__).resolve().parents[1] / "src" / "nonlocalnn"
_COUNTED = ("*.py", "*.js", "*.html", "*.css")
_OUTSIDE = ("__init__", "__main__")

_SETUP = """
import tempfile, torch, nonlocalnn as nl
from pathlib import Path
folder = Path(tempfile.mkdtemp())
"""
_VIDEOS = """
import av, numpy as np
for name, value in (("dark", 40), ("light", 210)):
    for number in range(6):
        path = folder / "videos" / ("train", "validation", "test")[number % 3] / name / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as file:
            stream = file.add_stream("libx264", rate=8, width=64, height=48, pix_fmt="yuv420p")
            for _ in range(12):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), value, np.uint8), format="rgb24")
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
"""
# Each: what is made before, and what is counted.
JOURNEYS = {
    "a tensor through a block": (
        "block, x = nl.NonLocal3d(8, zero_init=False), torch.randn(2, 8, 4, 6, 6, requires_grad=True)",
        "block(x).sum().backward()",
    ),
    "a training on videos": (
        _VIDEOS + "from nonlocalnn.cli import main",
        "assert main(['train', '--data', 'videos', '--data-dir', str(folder / 'videos'), '--model', "
        "'c2d_tiny', '--epochs', '1', '--batch-size', '2', '--output', str(folder / 'run'), '--device', "
        "'cpu']) == 0",
    ),
    "a clip to a page": (
        _VIDEOS + "from nonlocalnn.cli import main\n"
        "path = folder / 'm.safetensors'\n"
        "nl.save_checkpoint(nl.create_model('nl2_c2d_tiny', num_classes=2), path)",
        "assert main(['explain', str(folder / 'videos/test/dark/2.mp4'), '--model', str(path), '-o', "
        "str(folder / 'page.html'), '--device', 'cpu']) == 0",
    ),
    "a checkpoint's path to a model": (
        "path = folder / 'm.safetensors'\n"
        "nl.save_checkpoint(nl.create_model('nl2_c2d_tiny', num_classes=2), path)",
        "nl.load_checkpoint(path)",
    ),
}
_TRACED = """
import sys, threading
seen, importing = set(), threading.local()
def note(frame, event, argument):
    code = frame.f_code
    # What an import runs on the way, such as the bodies of classes, is no step of the journey.
    if code.co_name == "_find_and_load" and "importlib" in code.co_filename:
        depth = getattr(importing, "depth", 0)
        importing.depth = depth + (1 if event == "call" else -1 if event == "return" else 0)
    elif event == "call" and not getattr(importing, "depth", 0):
        seen.add(code.co_filename)
threading.setprofile(note); sys.setprofile(note)
try:
    exec(compile({journey!r}, "journey", "exec"))
finally:
    sys.setprofile(None)
print("\\nVISITED", sorted(each for each in seen if each.startswith({package!r})))
"""


def modules_of(package: Path) -> dict[str, Path]:
    """Return the files of a package by their dotted names, which begin with the package's.

    Example:
        >>> "nonlocalnn.blocks" in modules_of(_PACKAGE)
        True
    """
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path, modules: dict[str, Path]) -> set[str]:
    """Return which of ``modules`` a file imports, at its head or in a function."""
    found = set()
    for node in _running(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = {f"{node.module}.{each.name}" for each in node.names}
            found |= {name if name in modules else node.module for name in names}
    return found & set(modules)


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree without those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _running(node)


def circles_of(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of nodes that reach each other, each sorted.

    Example:
        >>> circles_of({"a": {"b"}, "b": {"a"}, "c": {"a"}})
        [['a', 'b']]
    """
    reached = {node: _reached(graph, node) for node in graph}
    groups = {
        tuple(sorted(other for other in graph if other in reached[node] and node in reached[other]))
        for node in graph
    }
    return sorted(list(group) for group in groups if len(group) > 1)


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    stack = [start]
    while stack:
        for each in graph[stack.pop()] - found:
            found.add(each)
            stack.append(each)
    return found


def floors_of(graph: dict[str, set[str]]) -> dict[str, int]:
    """Return the floor of each node: 0 for one that needs no other; those of a circle stand on one floor.

    Example:
        >>> floors_of({"a": {"b"}, "b": set(), "c": {"a", "b"}})
        {'a': 1, 'b': 0, 'c': 2}
    """
    group_of: dict[str, tuple[str, ...]] = {node: (node,) for node in graph}
    for group in circles_of(graph):
        group_of |= {node: tuple(group) for node in group}

    @cache
    def floor(group: tuple[str, ...]) -> int:
        below = {group_of[each] for node in group for each in graph[node]} - {group}
        return 1 + max((floor(each) for each in below), default=-1)

    return {node: floor(group_of[node]) for node in graph}


def room_of(module: str) -> str:
    """Return the room of a module: "data" of "nonlocalnn.data.video"."""
    return module.split(".")[1] if "." in module else "__init__"


def plan_of(package: Path) -> dict[str, object]:
    """Return the numbers of a package, by their names."""
    modules = modules_of(package)
    graph = {name: imports_of(path, modules) for name, path in modules.items()}
    rooms: dict[str, set[str]] = {room_of(name): set() for name in modules}
    for name, imported in graph.items():
        rooms[room_of(name)] |= {room_of(each) for each in imported} - {room_of(name)}
    inner = {name: below - set(_OUTSIDE) for name, below in rooms.items() if name not in _OUTSIDE}
    floors = floors_of(inner)
    lines = {
        room: sum(
            len(path.read_text(encoding="utf-8").splitlines())
            for pattern in _COUNTED
            for path in package.rglob(pattern)
            if path.relative_to(package).parts[0].split(".")[0] == room
        )
        for room in rooms
    }
    by_floor = [
        sorted(room for room in inner if floors[room] == floor) for floor in range(max(floors.values()) + 1)
    ]
    return {
        "rooms": len(inner),
        "floors": len(by_floor),
        "circles": circles_of(graph),
        "circles of rooms": circles_of(inner),
        "root files": sum(1 for path in package.glob("*.py")),
        "files": len(modules),
        "lines": sum(lines.values()),
        "lines by room": dict(sorted(lines.items(), key=lambda pair: -pair[1])),
        "rooms by floor, the lowest first": by_floor,
    }


def visited(package: Path, name: str) -> list[str]:
    """Run a journey in a process of its own; return the files of the package that it visits."""
    before, counted = JOURNEYS[name]
    source = _SETUP + before + _TRACED.format(journey=counted, package=str(package) + "/")
    environment = {"PYTHONPATH": str(package.parent), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, env=environment, check=False
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("VISITED ")]
    if not told:
        raise RuntimeError(f"{name}: {done.stderr}")
    return [
        str(Path(each).relative_to(package)) for each in ast.literal_eval(told[-1].removeprefix("VISITED "))
    ]


def main(words: Sequence[str]) -> int:
    """Print the numbers."""
    parser = CommandParser(prog="python -m benchmarks plan", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--package", type=Path, default=_PACKAGE, help="folder of the package (default: ours)"
    )
    parser.add_argument("--journeys", action="store_true", help="run the journeys too: a minute")
    parser.add_argument("--json", action="store_true", help="for programs")
    args = parser.parse_args(words)
    package = args.package.resolve()
    found = plan_of(package)
    if args.journeys:
        found["files of a journey"] = {name: visited(package, name) for name in JOURNEYS}
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for name, value in found.items():
        if name == "files of a journey":
            assert isinstance(value, dict)
            for journey, files in value.items():
                print(f"{journey}: {len(files)} files: {', '.join(files)}")
        elif isinstance(value, list):
            print(f"{name}: {len(value)}" + "".join(f"\n  {', '.join(each)}" for each in value))
        elif isinstance(value, dict):
            print(f"{name}: " + ", ".join(f"{key} {number}" for key, number in value.items()))
        else:
            print(f"{name}: {value}")
    return 0
