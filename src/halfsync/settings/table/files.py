"""Files, and responses that are used again for a while."""

from typing import Annotated

from halfsync.settings.table.about import KIB, MIB, about
from halfsync.settings.table.size_limits import SizeLimits


class Files(SizeLimits, frozen=True, kw_only=True):
    cache_control: Annotated[
        str | dict[str, str],
        about(
            "Files",
            "Cache-Control of files, such as 'public, max-age=3600'. By default there is none, and caches "
            "decide by the file's age. In a TOML file it may be a table of patterns, of which the first that "
            "fits counts: { '*.html' = 'no-cache', 'assets/*' = 'max-age=3600' }. A pattern with a slash is "
            "for the path within the folder, one without for the file's name.",
            metavar="TEXT",
            of_routes="files",
        ),
    ] = ""
    immutable: Annotated[
        bool,
        about(
            "Files",
            "Files with a hash of their content in the name, such as app.3f2a9c1b.js, get Cache-Control: "
            "public, max-age=31536000, immutable.",
            of_routes="files",
        ),
    ] = False
    precompressed: Annotated[
        bool,
        about(
            "Files",
            "Send the file with .br, .zst or .gz behind its name in place of a file, if it is there, is not "
            "older, and the client accepts it.",
            of_routes="files",
        ),
    ] = False
    fallback: Annotated[
        str,
        about(
            "Files",
            "Send this file of the folder in place of what does not exist: index.html for single-page "
            "applications.",
            metavar="FILE",
            of_routes="folders",
        ),
    ] = ""
    listing: Annotated[
        bool,
        about(
            "Files",
            "Respond to requests for a folder without an index.html with a list of what is in it.",
            of_routes="folders",
        ),
    ] = False

    lease: Annotated[
        float,
        about(
            "Leases",
            "For this long the pump may send a file again without looking at it again. 0: never.",
            unit="seconds",
            least=0,
            of_routes="files",
        ),
    ] = 1.0
    lease_memory: Annotated[
        int,
        about(
            "Leases",
            "Memory for leased responses, in all. An open file counts as 64 KiB: descriptors are scarce.",
            unit="bytes",
            least=0,
        ),
    ] = 64 * MIB
    lease_file_memory: Annotated[
        int,
        about(
            "Leases",
            "A leased file up to this size is held in memory, a larger one as an open file.",
            unit="bytes",
            least=0,
            most=64 * KIB,
        ),
    ] = 64 * KIB
