"""The parent process: binds, forks, reaps, heeds signals."""
