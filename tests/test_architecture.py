"""The rules of the house, read from the source: floors, third-party gates, cycles, sizes and names.

A new module gets its place in ``FLOORS``; a new dependency is declared in ``pyproject.toml`` and, where only
one room may see it, in ``GATES``.
"""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "slidesampler"

#: Lowest first. A room is a folder or a file directly in the package; a module imports only from its own room
#: or a lower floor. Files that belong together share a room's name.
FLOORS: tuple[dict[str, str], ...] = (
    {"errors": "errors", "_native": "_native"},
    {
        "geometry": "geometry",
        "lazy": "lazy",
        "machine": "machine",
        "mapping": "mapping",
        "resample": "resample",
        "rng": "rng",
    },
    {"models": "nouns", "shapes": "nouns", "shape_index": "nouns", "target": "nouns"},
    {"manifest": "manifest", "readers": "readers", "annotations": "annotations"},
    {"foreground": "foreground"},
    {"cache": "cache"},
    {"sampling": "sampling"},
    {
        "batching": "sampler",
        "building": "sampler",
        "choosing": "sampler",
        "foregrounds": "sampler",
        "layers": "sampler",
        "loading": "sampler",
        "pixels": "sampler",
        "resolve": "sampler",
        "sampler": "sampler",
        "sequences": "sampler",
        "sources": "sampler",
        "viewport": "sampler",
    },
    {"augment": "augment", "predict": "predict"},
    {
        "torch": "torch",
        "report": "report",
        "view": "view",
        "doctor": "doctor",
        "measure": "measure",
        "testing": "testing",
    },
    {"cli": "cli", "__main__": "cli"},
)

#: The only places that import a third-party package: module names, or packages with all that is in them.
GATES: dict[str, tuple[str, ...]] = {
    "dask": ("slidesampler.cache.executors",),
    "distributed": ("slidesampler.cache.executors",),
    "hypothesis": ("slidesampler.testing",),
    "kwcoco": ("slidesampler.manifest",),
    "kwimage": ("slidesampler.annotations", "slidesampler.manifest"),
    "matplotlib": ("slidesampler.report",),
    "openslide": ("slidesampler.readers.openslide",),
    "osgeo": ("slidesampler.readers.gdal", "slidesampler.readers._gdal_", "slidesampler.cache.gdal_write"),
    "osgeo_utils": ("slidesampler.cache.cog_check",),
    "PIL": ("slidesampler.report",),
    "pytest": ("slidesampler.testing",),
    "rich": ("slidesampler.cli",),
    "shapely": ("slidesampler.annotations",),
    "starlette": ("slidesampler.view",),
    "torch": ("slidesampler.torch",),
    "typer": ("slidesampler.cli",),
}

#: Import names that are not the name of their distribution, and GDAL, which is no dependency on purpose.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "openslide": "openslide-python"}
UNDECLARED = {"osgeo", "osgeo_utils"}

#: What a file may have; longer ones need a reason here.
MAX_LINES = 400
LONG: dict[str, str] = {}

BANNED_NAMES = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common)(_|$)|Manager|Utils?$")


class Import(NamedTuple):
    """One import statement's target, where it stands, and when it is carried out."""

    target: str
    line: int
    when: str  # "import": with the module; "call": in a function; "typing": never


class Module(NamedTuple):
    """A source file of the package."""

    name: str
    path: Path
    tree: ast.Module
    imports: tuple[Import, ...]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_typing_guard(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def collect_imports(node: ast.AST, when: str = "import") -> list[Import]:
    found: list[Import] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            found += [Import(alias.name, child.lineno, when) for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import"
            found += [Import(f"{child.module}.{alias.name}", child.lineno, when) for alias in child.names]
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found += collect_imports(child, "call" if when == "import" else when)
        elif isinstance(child, ast.If) and is_typing_guard(child):
            found += collect_imports(ast.Module(child.body, []), "typing")
            found += collect_imports(ast.Module(child.orelse, []), when)
        else:
            found += collect_imports(child, when)
    return found


def load_modules() -> tuple[Module, ...]:
    modules = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        modules.append(Module(module_name(path), path, tree, tuple(collect_imports(tree))))
    return tuple(modules)


MODULES = load_modules()
NAMES = {module.name for module in MODULES}


def owner(target: str) -> str | None:
    """Return the module of the package that an import's target is, or is a name of."""
    while target not in NAMES:
        target, dot, _ = target.rpartition(".")
        if not dot:
            return None
    return target


def place(module: str) -> tuple[int, str]:
    """Return floor and room of a module other than the front door."""
    top = module.split(".")[1]
    for floor, rooms in enumerate(FLOORS):
        if top in rooms:
            return floor, rooms[top]
    raise AssertionError(f"{module} has no floor: give it one in tests/test_architecture.py")


def inner_imports() -> list[tuple[Module, Import, str]]:
    """Return every import of one module of the package by another."""
    found = []
    for module in MODULES:
        for item in module.imports:
            if item.target.split(".")[0] == "slidesampler":
                target = owner(item.target)
                assert target is not None
                found.append((module, item, target))
    return found


def test_modules_import_only_from_their_own_room_or_a_lower_floor() -> None:
    wrong = []
    for module, item, target in inner_imports():
        if module.name == "slidesampler" or target == "slidesampler":
            continue
        (floor, room), (target_floor, target_room) = place(module.name), place(target)
        if target_room != room and target_floor >= floor:
            wrong.append(f"{module.path.relative_to(ROOT)}:{item.line}: {room} may not import {target}")
    assert not wrong, "\n".join(wrong)


def test_every_module_has_a_floor() -> None:
    assert len(MODULES) > 10
    for module in MODULES:
        if module.name != "slidesampler":
            assert place(module.name)


def test_nobody_inside_imports_the_front_door() -> None:
    wrong = [
        f"{module.path.relative_to(ROOT)}:{item.line}: imports {item.target}"
        for module, item, target in inner_imports()
        # The version is the one thing that lives there.
        if target == "slidesampler" and item.target != "slidesampler.__version__"
    ]
    assert not wrong, "\n".join(wrong)


def test_third_party_packages_are_imported_at_their_gate_only() -> None:
    wrong = []
    for module in MODULES:
        for item in module.imports:
            top = item.target.split(".")[0]
            # A name in an annotation imports nothing.
            if item.when != "typing" and top in GATES and not passes(module.name, GATES[top]):
                wrong.append(f"{module.path.relative_to(ROOT)}:{item.line}: {top} belongs to {GATES[top]}")
    assert not wrong, "\n".join(wrong)


def passes(module: str, gates: tuple[str, ...]) -> bool:
    return any(
        module == gate or module.startswith(f"{gate}.") or (gate.endswith("_") and module.startswith(gate))
        for gate in gates
    )


def test_third_party_packages_are_declared() -> None:
    declared = declared_distributions()
    undeclared = {
        f"{module.name}:{item.line}: {top}"
        for module in MODULES
        for item in module.imports
        if (top := item.target.split(".")[0]) != "slidesampler"
        and top not in sys.stdlib_module_names
        and top not in UNDECLARED
        and DISTRIBUTIONS.get(top, top) not in declared
    }
    assert not undeclared


def declared_distributions() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    # What only checks and docs need is not there for users of the package; who uses its contract suites has
    # pytest.
    lines = [*project["dependencies"], *extras["torch"], *extras["dask"], *extras["test"]]
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in lines}


def test_bare_gdal_is_no_dependency() -> None:
    # pip would pick a binding that does not match the system's libgdal.
    assert "gdal" not in declared_distributions()
    assert "opencv-python" not in declared_distributions()


def test_imports_have_no_cycle() -> None:
    graph: dict[str, set[str]] = {module.name: set() for module in MODULES}
    for module, item, target in inner_imports():
        if item.when == "import" and target != module.name:
            graph[module.name].add(target)
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert len(order) == len(MODULES)


def test_files_are_short() -> None:
    lengths = {
        module.path.relative_to(PACKAGE).as_posix(): module.path.read_text(encoding="utf-8").count("\n")
        for module in MODULES
    }
    too_long = {name: lines for name, lines in lengths.items() if lines > MAX_LINES and name not in LONG}
    assert not too_long, "split them, or give a reason in LONG"
    assert not [name for name in LONG if lengths.get(name, 0) <= MAX_LINES], "no longer long: take it off LONG"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_names_say_what_a_thing_is(module: Module) -> None:
    defined = [node.name for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    vague = [name for name in (module.name.rpartition(".")[2], *defined) if BANNED_NAMES.search(name)]
    assert not vague


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_no_keyword_arguments_are_handed_through(module: Module) -> None:
    handed = [
        f"{function.name}:{call.lineno}"
        for function in ast.walk(module.tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and function.args.kwarg is not None
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and expands(call, function.args.kwarg.arg)
    ]
    assert not handed


def expands(call: ast.Call, name: str) -> bool:
    # dataclasses.replace knows its fields and refuses any other.
    return not (isinstance(call.func, ast.Name) and call.func.id == "replace") and any(
        keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == name
        for keyword in call.keywords
    )


def public_names(module: Module) -> list[str] | None:
    """Return the module's ``__all__``, or None where it has none."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            return list(ast.literal_eval(node.value))
    return None


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_all_is_sorted_and_what_it_names_is_documented(module: Module) -> None:
    assert ast.get_docstring(module.tree), "a module says in its docstring what lives there"
    names = public_names(module)
    if names is None:
        defined = [
            node.name
            for node in module.tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
        ]
        assert not defined, "a module that defines public names lists them in __all__"
        return
    # CONSTANTS, then Classes, then functions, as ruff's RUF022 has it.
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert len(set(names)) == len(names)
    undocumented = [
        node.name
        for node in module.tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and node.name in names
        and not ast.get_docstring(node)
    ]
    assert not undocumented


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("[a-z]*")), ids=lambda path: path.name)
def test_scripts_can_be_run(script: Path) -> None:
    if script.is_file():
        first = script.read_text(encoding="utf-8").partition("\n")[0]
        assert first.startswith("#!/usr/bin/env ")
        assert script.stat().st_mode & 0o111, f"chmod +x {script.name}"


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert importlib.util.find_spec("slidesampler") is not None
