"""Static analysis of the imports between the Python files of a checkout.

Every import statement counts, also inside functions and under TYPE_CHECKING. Nothing is imported or run.
"""

from __future__ import annotations

import ast
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class Import(NamedTuple):
    """One file of the checkout importing another.

    Attributes:
        importer: Path of the importing file, relative to the checkout.
        imported: Path of the imported file, relative to the checkout.
        line: Line of the import statement.
    """

    importer: PurePosixPath
    imported: PurePosixPath
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


@dataclass(frozen=True)
class ImportGraph:
    """Python files of a checkout and the imports between them.

    Attributes:
        files: Paths relative to the checkout.
        imports: Sorted by importer and line; imports of third parties are left out.
    """

    files: tuple[PurePosixPath, ...]
    imports: tuple[Import, ...]
    _successors: dict[PurePosixPath, set[PurePosixPath]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        successors = {file: set[PurePosixPath]() for file in self.files}
        for one in self.imports:
            successors[one.importer].add(one.imported)
        object.__setattr__(self, "_successors", successors)

    def cycles(self) -> list[list[Import]]:
        """Return the shortest import cycle of each group of files that import each other."""
        return [self._shortest_cycle(group) for group in self._groups() if self._is_cyclic(group)]

    def longest_chain(self) -> int:
        """Return the number of files on the longest import chain; all files of a cycle count."""
        groups = self._groups()  # each after the groups that it imports
        group_of = {file: index for index, group in enumerate(groups) for file in group}
        lengths: list[int] = []
        for index, group in enumerate(groups):
            imported = {group_of[target] for file in group for target in self._successors[file]} - {index}
            lengths.append(len(group) + max((lengths[one] for one in imported), default=0))
        return max(lengths, default=0)

    def _is_cyclic(self, group: list[PurePosixPath]) -> bool:
        return len(group) > 1 or group[0] in self._successors[group[0]]

    def _groups(self) -> list[list[PurePosixPath]]:
        """Return the strongly connected components, imported ones first (Tarjan, 1972)."""
        index: dict[PurePosixPath, int] = {}
        lowest: dict[PurePosixPath, int] = {}
        stack: list[PurePosixPath] = []
        open_files: set[PurePosixPath] = set()
        groups: list[list[PurePosixPath]] = []

        def visit(file: PurePosixPath) -> None:
            index[file] = lowest[file] = len(index)
            stack.append(file)
            open_files.add(file)
            for target in sorted(self._successors[file]):
                if target not in index:
                    visit(target)
                    lowest[file] = min(lowest[file], lowest[target])
                elif target in open_files:
                    lowest[file] = min(lowest[file], index[target])
            if lowest[file] == index[file]:
                start = stack.index(file)
                groups.append(stack[start:])
                open_files.difference_update(stack[start:])
                del stack[start:]

        for file in self.files:
            if file not in index:
                visit(file)
        return groups

    def _shortest_cycle(self, group: list[PurePosixPath]) -> list[Import]:
        members = set(group)
        inside = defaultdict(list)
        for one in self.imports:
            if one.importer in members and one.imported in members:
                inside[one.importer].append(one)
        return min((_way_back(file, inside) for file in sorted(group)), key=len)


def _way_back(start: PurePosixPath, inside: Mapping[PurePosixPath, Sequence[Import]]) -> list[Import]:
    """Return the shortest chain of imports from a file back to itself."""
    reached_by: dict[PurePosixPath, Import] = {}
    queue = deque([start])
    while start not in reached_by:
        for one in inside[queue.popleft()]:
            if one.imported not in reached_by:
                reached_by[one.imported] = one
                queue.append(one.imported)
    chain = [reached_by[start]]
    while chain[0].importer != start:
        chain.insert(0, reached_by[chain[0].importer])
    return chain


def read_imports(checkout: Path, roots: Sequence[str]) -> ImportGraph:
    """Read the imports between all Python files under some folders of a checkout.

    Args:
        checkout: Folder of the checkout.
        roots: Folders relative to it from which modules are imported, as entries of `sys.path` are. A file
            finds a name under the root that holds the file first, then under the others in this order.
    """
    trees = {root: _modules(checkout, root) for root in roots}
    owners = {file: root for root in sorted(roots, key=len) for file in trees[root].values()}  # deepest wins
    imports = {
        Import(file, target, line)
        for file, owner in owners.items()
        for line, candidates in _import_statements(checkout / file, _package(file, owner))
        for target in _resolve(candidates, [trees[owner], *trees.values()])
    }
    return ImportGraph(
        tuple(sorted(owners)), tuple(sorted(imports, key=lambda one: (one.importer, one.line)))
    )


def _modules(checkout: Path, root: str) -> dict[str, PurePosixPath]:
    """Return the files under a root, without links, by the dotted names that import them."""
    modules = {}
    for path in sorted((checkout / root).rglob("*.py")):
        parts = path.relative_to(checkout / root).with_suffix("").parts
        if all(part.isidentifier() for part in parts) and not path.is_symlink():
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules[name] = PurePosixPath(path.relative_to(checkout).as_posix())
    return modules


def _package(file: PurePosixPath, root: str) -> tuple[str, ...]:
    return file.relative_to(root).parent.parts


def _import_statements(path: Path, package: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Yield the line of each import and its dotted names, the most specific first.

    `from a import b` may name the module `a.b` or a name in the module `a`.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, [alias.name]) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                parents = package[: len(package) - level + 1] if level else ()
                source = ".".join([*parents, *([module] if module else [])])
                yield from ((node.lineno, [f"{source}.{alias.name}", source]) for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, [name]


def _resolve(candidates: list[str], trees: Sequence[Mapping[str, PurePosixPath]]) -> Iterator[PurePosixPath]:
    """Yield the file that the first known candidate names, if it belongs to the checkout."""
    for name in candidates:
        for tree in trees:
            if name in tree:
                yield tree[name]
                return


def upward_imports(graph: ImportGraph, package: str, layers: Sequence[Sequence[str]]) -> list[Import]:
    """Return the imports inside a package that go from a layer to a higher one.

    Args:
        graph: Imports of the checkout.
        package: Folder of the package, relative to the checkout.
        layers: Names of the package's modules and sub-packages, from the lowest layer to the highest.

    Raises:
        LookupError: A module of the package is in no layer.
    """
    level = {name: height for height, names in enumerate(layers) for name in names}
    heights = {}
    for file in graph.files:
        if file.is_relative_to(package):
            name = file.relative_to(package).with_suffix("").parts[0]
            if name not in level:
                raise LookupError(f"{file} is in no layer of {package}; add {name!r} to its layers")
            heights[file] = level[name]
    return [
        one
        for one in graph.imports
        if one.importer in heights and heights[one.importer] < heights.get(one.imported, 0)
    ]


def forbidden_imports(graph: ImportGraph, importer: str, imported: Sequence[str]) -> list[Import]:
    """Return the imports from files under one folder of files under any of some others."""
    return [
        one
        for one in graph.imports
        if one.importer.is_relative_to(importer) and any(one.imported.is_relative_to(to) for to in imported)
    ]
