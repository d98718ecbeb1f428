"""Which functions are tried, and the mutants of them: the same ones for the same seed and source."""

import ast
import hashlib
import io
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

# The tests of a room, and the files whose functions run in other processes: there, the tests to run as well.
ROOMS = {
    "functional": (
        "tests/functional",
        "tests/test_blocks.py",
        "tests/test_block_layers.py",
        "tests/test_block_settings.py",
        "tests/test_cost.py",
    ),
    "blocks": (
        "tests/test_blocks.py",
        "tests/test_block_layers.py",
        "tests/test_block_settings.py",
        "tests/functional",
    ),
    "affinity": ("tests/affinity",),
    "surgery/conversion": ("tests/test_conversion.py", "tests/test_attention_conversion.py"),
    "checkpoints": ("tests/checkpoints", "tests/test_security.py", "tests/cli/test_cli_convert.py"),
    "data": ("tests/data", "tests/cli/test_data.py"),
    "train": ("tests/train",),
    "export": ("tests/test_export.py", "tests/test_export_checks.py", "tests/cli/test_cli_export.py"),
    "explorer": ("tests/explorer", "tests/cli/test_cli_maps.py"),
}
ELSEWHERE = {
    "blocks.py": "tests/functional/test_split_positions.py",
    "functional/exchange.py": "tests/functional/test_split_positions.py",
    "functional/ring.py": "tests/functional/test_split_positions.py",
    "functional/split.py": "tests/functional/test_split_positions.py",
    "functional/splitting.py": "tests/functional/test_split_positions.py",
    "train/parallel/distributed.py": "tests/train/test_elastic.py",
    "train/parallel/layout.py": "tests/train/test_sharded.py",
    "train/state/saving.py": "tests/train/test_state_folder.py",
    "train/state/resuming.py": "tests/train/test_state_folder.py",
}
# One replacement for each operator: the nearest. "Is" for "==" and the like change nothing for most values.
_OPERATORS = (
    *(
        f"ReplaceBinaryOperator_{names}"
        for names in (
            *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul"),
            *("BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitOr", "LShift_RShift", "RShift_LShift"),
        )
    ),
    *(
        f"ReplaceComparisonOperator_{names}"
        for names in ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Is_IsNot", "IsNot_Is")
    ),
    *(f"ReplaceUnaryOperator_Delete_{name}" for name in ("USub", "Invert", "Not")),
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer"),
    *("RemoveDecorator", "ZeroIterationForLoop"),
)


@dataclass(frozen=True)
class Function:
    """A function of a file.

    Args:
        file: Its path from the package, as "functional/ring.py".
        name: Its name, after that of its class and a dot.
        first, last: Its lines, decorators included, counted from 1.
        body: The first line of its body.
        num_lines: How many of them hold code.
    """

    file: str
    name: str
    first: int
    last: int
    body: int
    num_lines: int


@dataclass(frozen=True)
class Mutant:
    """A function with one change.

    Args:
        function: Which.
        operator: What was changed.
        line: Where, counted from 1.
        before, after: The lines that differ, without what surrounds them.
        source: The whole file with the change.
    """

    function: Function
    operator: str
    line: int
    before: str
    after: str
    source: str

    @property
    def is_outside_body(self):
        """Whether a decorator or a default is changed."""
        return self.line < self.function.body


def sample(package, room, *, lines, seed):
    """Return functions of a room until they hold so many lines of code, drawn by their names alone."""
    path = Path(package, room)
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    found = [each for file in files for each in _functions(file, file.relative_to(package).as_posix())]
    found.sort(key=lambda each: hashlib.sha256(f"{seed} {each.file} {each.name}".encode()).digest())
    drawn = []
    for each in found:
        if sum(taken.num_lines for taken in drawn) >= lines:
            break
        drawn.append(each)
    return drawn


def _functions(path, file):
    source = path.read_text()
    code = _code_lines(source)
    found = []
    tree = ast.parse(source)
    classes = [("", tree)] + [(f"{each.name}.", each) for each in tree.body if isinstance(each, ast.ClassDef)]
    for prefix, owner in classes:
        for each in owner.body:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([each.lineno, *(decorator.lineno for decorator in each.decorator_list)])
                held = code & set(range(first, each.end_lineno + 1))
                # Shorter ones hold little more than their names.
                if len(held) >= 3:
                    found.append(
                        Function(
                            file, prefix + each.name, first, each.end_lineno, each.body[0].lineno, len(held)
                        )
                    )
    return found


def _code_lines(source):
    """Return the numbers of lines that hold code, which docstrings and comments are not."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {
        line
        for token in tokens
        if token.type not in skipped
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return lines


def mutants(package, function, *, seed):
    """Yield the mutants of a function: cosmic-ray's, and those of two operators that it lacks."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = Path(package, function.file).read_text()
    operators = {name: get_operator(f"core/{name}")() for name in _OPERATORS}
    operators |= {"DropKeyword": _DropKeyword(), "DropStatement": _DropStatement()}
    typed = _annotations(source)
    kept, drawn = {_meaning(source)}, {}
    nodes = list(ast_nodes(get_ast(source)))
    for name, operator in operators.items():
        places = [(place, node) for node in nodes for place in operator.mutation_positions(node)]
        for number, ((start, _), node) in enumerate(places):
            # The star before arguments that must be named is no product.
            is_star = node.parent is not None and node.parent.type == "parameters"
            is_typed = any(first <= start <= last for first, last in typed)
            if function.first <= start[0] <= function.last and not is_star and not is_typed:
                drawn.setdefault((start, name), []).append(number)
    for (start, name), numbers in sorted(drawn.items()):
        line = start[0] - function.first
        draw = hashlib.sha256(f"{seed} {function.file} {function.name} {line} {start[1]} {name}".encode())
        changed = mutate_code(source, operators[name], numbers[draw.digest()[0] % len(numbers)])
        try:
            meaning = _meaning(changed)
        except SyntaxError:
            continue
        if meaning not in kept:
            kept.add(meaning)
            before, after = _difference(source, changed)
            yield Mutant(function, name, start[0], before, after, changed)


def _meaning(source):
    """Return code without its layout, and "not a == b" as "a != b": the same change is tried once."""
    return ast.unparse(_Plain().visit(ast.parse(source)))


class _Plain(ast.NodeTransformer):
    _OPPOSITE: ClassVar = {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is}

    def visit_UnaryOp(self, node):
        self.generic_visit(node)
        inner = node.operand
        if not isinstance(node.op, ast.Not):
            return node
        if isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.Not):
            return inner.operand
        if isinstance(inner, ast.Compare) and len(inner.ops) == 1 and type(inner.ops[0]) in self._OPPOSITE:
            return ast.Compare(inner.left, [self._OPPOSITE[type(inner.ops[0])]()], inner.comparators)
        return node


def _annotations(source):
    """Return where types stand, which nothing reads when the code runs."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            each = getattr(node, name, None)
            if each is not None:
                found.append(((each.lineno, each.col_offset), (each.end_lineno, each.end_col_offset)))
    return found


def _difference(before, after):
    old, new = before.splitlines(), after.splitlines()
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    while old and new and old[-1] == new[-1]:
        del old[-1], new[-1]
    return tuple(re.sub(r"(?<=[(\[]) ", "", " ".join(each.strip() for each in lines)) for lines in (old, new))


class _DropKeyword:
    """Leave out a keyword argument of a call."""

    def mutation_positions(self, node):
        if node.type == "argument" and node.children[1:2] == ["="]:
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        following = node.get_next_sibling()
        if following is not None and following.type == "operator" and following.value == ",":
            following.value = ""
        return


class _DropStatement:
    """Leave out a statement that is nothing but a call, or that changes something in place."""

    def mutation_positions(self, node):
        if node.type in ("atom_expr", "expr_stmt") and node.parent.type == "simple_stmt":
            target, sign = node.children[:2]
            is_plain = sign.type == "annassign" or (sign == "=" and "." not in target.get_code(False))
            if node.type == "atom_expr" or not is_plain:
                yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        import parso

        return parso.parse(f"{node.get_first_leaf().prefix}pass")
