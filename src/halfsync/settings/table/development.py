"""For those who write an application."""

from typing import Annotated

from halfsync.settings.table.about import about
from halfsync.settings.table.protocols import Protocols


class Development(Protocols, frozen=True, kw_only=True):
    reload: Annotated[
        bool,
        about(
            "Development",
            "Reload when the code of an application or the settings file changes; if it can't be imported, "
            "show why and wait for the next change. Needs the package watchfiles: pip install "
            "'halfsync[reload]'.",
        ),
    ] = False
    reload_dir: Annotated[
        list[str],
        about(
            "Development",
            "Watch this folder, and not the current one and those of the applications' modules. May be given "
            "several times.",
            metavar="FOLDER",
        ),
    ] = []
    reload_include: Annotated[
        list[str],
        about(
            "Development",
            "Files that are code too, beside *.py: a pattern such as '*.html', a file, or a folder with all "
            "that is in it. May be given several times.",
            metavar="PATTERN",
        ),
    ] = []
    reload_exclude: Annotated[
        list[str],
        about(
            "Development",
            "Files or folders that are not watched, such as 'tests' or '*_gen.py'. Hidden folders, virtual "
            "environments, __pycache__ and node_modules never are. May be given several times.",
            metavar="PATTERN",
        ),
    ] = []
