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
    "early_signals": set(),
    "command_line": {"folders"},
    "stamps": {"primitives"},
    "exceptions": set(),
    "store_url": set(),
    "objects": {"stamps"},
    "prctl": set(),
    "forwarded": {"logs.error"},
    "primitives": set(),
    "folders": {"primitives"},
    "temporary_files": {"primitives"},
    "wire": {"objects", "wire"},
    "request": {"wire", "request", "request_ids", "primitives"},
    "request_ids": set(),
    "response": {"objects", "stamps", "wire", "request", "request_ids"},
    "settings": {"acme_plan", "header_rules", "settings"},
    "seen_files": set(),
    "stacks_signal": set(),
    "cores": set(),
    "memory": set(),
    "scoreboard": set(),
    "counts": {"scoreboard"},
    "hosts": set(),
    "routes_table": {"plan"},
    "header_rules": set(),
    "certificates": set(),
    "tls_facts": set(),
    "ticket_keys": {"certificates"},
    "error_pages": set(),
    "acme_plan": set(),
    "issuing": {"acme_plan", "channel", "issuing", "logs", "plan", "wire", "__init__"},
    "page_files": {"error_pages", "folders", "handlers.types", "settings"},
    "plan": {"acme_plan", "certificates", "error_pages", "header_rules", "seen_files", "settings.table"},
    "layout": {"cores", "error_pages", "folders", "header_rules", "page_files", "plan", "settings"},
    "plan_codec": {"certificates", "plan", "settings.table"},
    "at_reload": {"settings.table"},
    "rereading": {"at_reload", "habits", "header_rules", "layout", "seen_files", "settings"},
    "without_effect": {"layout", "plan", "settings"},
    "channel": {"wire", "primitives", "temporary_files"},
    "logs": {
        "logs", "forwarded", "hosts", "wire", "request", "request_ids", "pump.closes", "primitives",
        "settings.table", "__init__",
    },
    "pump": {
        "counts", "memory", "scoreboard",
        "pump", "wire", "objects", "plan", "plan_codec", "channel", "logs", "settings.table", "prctl",
        "temporary_files", "stamps", "hosts", "header_rules", "forwarded", "certificates",
        "error_pages", "ticket_keys", "tls_facts", "request_ids", "store_url",
    },
    "handlers": {
        "handlers", "wire", "objects", "plan", "request", "response", "logs", "settings.table", "primitives",
        "temporary_files", "folders", "stamps", "forwarded", "tls_facts", "header_rules", "error_pages",
        "request_ids", "exceptions",
    },
    "worker": {
        "worker", "handlers", "wire", "objects", "plan", "channel", "logs", "settings.table", "request",
        "response", "prctl", "temporary_files", "primitives", "folders", "stamps", "forwarded",
        "header_rules", "hosts", "error_pages", "request_ids", "exceptions", "stacks_signal",
    },
    "watcher": {"watcher", "wire", "plan", "channel", "logs", "seen_files", "settings"},
    "parent": {
        "command_line", "counts", "early_signals", "memory", "scoreboard",
        "parent", "wire", "layout", "plan", "plan_codec", "channel", "logs", "settings", "prctl",
        "temporary_files", "folders", "seen_files", "routes_table", "certificates",
        "hosts", "issuing.files", "ticket_keys", "stacks_signal", *ENTRY_POINTS,
    },
    "toml_text": {"header_rules", "settings"},
    "habits": {"habits", "settings", "toml_text"},
    "cli": {
        "command_line", "early_signals", "habits", "forwarded", "toml_text", "watcher.main", "parent",
        "layout", "plan", "settings", "logs", "channel", "wire", "folders", "rereading", "seen_files",
        "routes_table", "logresolve", "store_url", "without_effect",
    },
    "logresolve": {"logs"},
    "ctl": {"ctl_text", "wire"},
    "ctl_text": set(),
    "start": {"cli", "ctl", "early_signals"},
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


def test_no_circles_between_folders_of_the_pump():
    """A folder that needs another one is not needed by it, nor by what that one needs."""
    needs: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        match name.split("."):
            case ["pump", folder, _]:
                others = {
                    one.split(".")[1] for one in ours(path) if one.startswith("pump.") and one.count(".") == 2
                }
                needs.setdefault(folder, set()).update(others - {folder})
    assert len(needs) > 5
    while needs:
        free = {folder for folder, others in needs.items() if not others & needs.keys()}
        assert free, f"these need each other: {needs}"
        for folder in free:
            del needs[folder]


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
