"""The settings: `table` lists them, `values` checks them, `sources` finds out what the user wants."""
