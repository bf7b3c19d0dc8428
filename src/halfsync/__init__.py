"""halfsync: a web server for Python applications."""

from halfsync.exceptions import HandlerTimeout

__all__ = ["HandlerTimeout"]
__version__ = "0.1.0"
