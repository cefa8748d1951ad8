"""One module a command of `optc`, imported when the command runs."""
