"""What a wrong setting raises."""


class SettingError(Exception):
    """A setting or a target is wrong. `str()` is one sentence that names it, for the user."""
