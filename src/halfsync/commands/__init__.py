"""What people start: the command line, halfsyncctl, logresolve."""
