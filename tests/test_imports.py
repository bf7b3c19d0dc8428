"""Imports point one way: what each part may know of the others, held against what it imports."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src"
PACKAGE = SOURCE / "halfsync"

# What each part may import of ours. A part is a folder or a module of the package; the longest
# name that fits a module is its part. The parent's children begin in their own parts, which the
# parent may know by their entry points alone.
ENTRY_POINTS = {"issuing.main", "pump.main", "worker.main", "worker.template", "watcher.main"}
ALLOWED: dict[str, set[str]] = {
    "exceptions": set(),
    "system": {"system"},
    "objects": {"system.stamps"},
    "wire": {"objects", "wire"},
    "channel": {"wire", "system"},
    "tls": {"tls"},
    "scoreboard": {"scoreboard"},
    "http": {"http", "objects", "system", "wire"},
    "settings": {"http.header_rules", "settings", "tls.acme_plan"},
    "habits": {"habits", "settings"},
    "plan": {"http", "plan", "settings", "system", "tls"},
    "logs": {"http", "logs", "settings.table", "system", "wire", "__init__"},
    "issuing": {"channel", "issuing", "logs", "plan", "tls", "wire", "__init__"},
    "pump": {
        "channel", "http", "logs", "objects", "plan", "pump", "scoreboard", "settings.store_url",
        "settings.table", "system", "tls", "wire",
    },
    "handlers": {
        "exceptions", "handlers", "http", "logs", "objects", "plan", "settings.table", "system", "tls",
        "wire",
    },
    "worker": {
        "channel", "exceptions", "handlers", "http", "logs", "objects", "plan", "scoreboard",
        "settings.table", "system", "wire", "worker",
    },
    "watcher": {"channel", "logs", "plan", "settings", "system", "watcher", "wire"},
    "parent": {
        "channel", "http", "issuing.files", "logs", "parent", "plan", "scoreboard", "settings", "system",
        "tls", "wire", *ENTRY_POINTS,
    },
    "commands": {
        "channel", "commands", "habits", "http", "logs", "parent", "plan", "settings", "system",
        "watcher.main", "wire",
    },
    "start": {"commands.cli", "commands.ctl", "system.early_signals"},
    "__main__": {"start"},
    "__init__": {"exceptions"},
}  # fmt: skip

INPUT_AND_OUTPUT = {
    "asyncio", "fcntl", "io", "mmap", "multiprocessing", "os", "pathlib", "select", "selectors", "signal",
    "socket", "ssl", "subprocess", "tempfile", "threading", "time",
}  # fmt: skip


def modules() -> dict[str, Path]:
    """All of ours, by name within the package."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }


MODULES = modules()


@cache
def imports(path: Path, *, for_types: bool) -> frozenset[str]:
    """All modules that a file names in imports, also within functions; without `for_types` not those
    under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    due: list[ast.AST] = [tree]
    while due:
        node = due.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not for_types:
            due += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        due += ast.iter_child_nodes(node)
    return frozenset(found)


def ours(path: Path, *, for_types: bool = True) -> set[str]:
    """Modules of ours, by name within the package. `from halfsync.x import y` names x.y if that is a
    module, and else x."""
    named = {
        name.removeprefix("halfsync.")
        for name in imports(path, for_types=for_types)
        if name.startswith("halfsync.")
    }
    return {name for name in named if name in MODULES and MODULES[name].stem != "__init__"}


def part(module: str) -> str:
    return module.partition(".")[0]


def allowed(module: str, imported: str) -> bool:
    names = ALLOWED[part(module)]
    return any(imported == name or imported.startswith(name + ".") for name in names)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_its_part_may(module: str):
    """Each part's place in the order is kept, also by imports within functions and for types."""
    if module == "":
        return
    assert part(module) in ALLOWED, f"{module} has no place in the order yet: give it one"
    wrong = {name for name in ours(MODULES[module]) if not allowed(module, name)}
    assert not wrong, f"{module} must not know {sorted(wrong)}"


@pytest.mark.parametrize("module", sorted(name for name in MODULES if part(name) in ("wire", "objects")))
def test_protocols_do_no_input_or_output(module: str):
    """Bytes in, events out: no sockets, files, clocks or threads."""
    assert (
        not {name.partition(".")[0] for name in imports(MODULES[module], for_types=True)} & INPUT_AND_OUTPUT
    )


def test_only_the_parent_knows_how_the_others_begin():
    """And knows nothing else of them: its own process imports neither the pump nor a handler."""
    for name, path in MODULES.items():
        if part(name) == "parent":
            assert {one for one in ours(path) if part(one) in ("pump", "worker", "handlers")} <= ENTRY_POINTS


def test_nothing_imports_the_packages_top():
    """`from halfsync import x` would import everything that the top wants."""
    for name, path in MODULES.items():
        if name in ("cli", "__main__", "start"):
            continue
        taken = {
            one for one in imports(path, for_types=True) if one.startswith("halfsync.") or one == "halfsync"
        }
        values = {one for one in taken if one.count(".") == 1 and one.partition(".")[2] not in MODULES}
        values -= {f"halfsync.{folder.name}" for folder in PACKAGE.iterdir() if folder.is_dir()}
        values.discard("halfsync.__version__")  # it stands there before anything else
        assert not values, f"{name} imports {sorted(values)}"


def test_no_circles():
    """No module needs one that needs it, neither to be imported nor for its types."""
    needs = {name: ours(path, for_types=True) for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for one in sorted(needs[name]):
                visit(one, (*trail, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("within", ["", "parent.", "pump."])
def test_no_circles_between_folders(within: str):
    """A folder that needs another one is not needed by it, nor by what that one needs."""

    def folder(name: str) -> str:
        inner, _, module = name.removeprefix(within).partition(".")
        return inner if name.startswith(within) and module and name not in ENTRY_POINTS else ""

    needs: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        if folder(name):
            needs.setdefault(folder(name), set()).update(map(folder, ours(path)))
    needs = {name: others - {name, ""} for name, others in needs.items()}
    assert len(needs) > 4
    while needs:
        free = {name for name, others in needs.items() if not others & needs.keys()}
        assert free, f"these need each other: {needs}"
        for name in free:
            del needs[name]


def test_only_known_packages_are_needed():
    """Beside the standard library: click, httptools, msgspec; and what the extras install."""
    for name, path in MODULES.items():
        tops = {one.partition(".")[0] for one in imports(path, for_types=True)}
        others = tops - set(sys.stdlib_module_names) - {"halfsync", "_typeshed"}  # the latter for types only
        acme = {"acme", "cryptography", "josepy", "requests"}
        extra = {
            "watcher.main": {"watchfiles"},
            "worker.event_loop": {"uvloop"},
            "wire.websocket": {"websockets"},
            "logs.traces": {"opentelemetry"},
            "issuing.authority": acme,
            "issuing.files": acme,
        }.get(name, set())
        assert others <= {"click", "httptools", "msgspec"} | extra, f"{name} imports {sorted(others)}"
