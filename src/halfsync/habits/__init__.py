"""The habits of those who come from other servers: their options, their variables, their settings files.

None of it is needed to run halfsync. `options` has the table of foreign options, `gunicorn` reads a
gunicorn.conf.py, `convert` prints one as TOML.
"""
