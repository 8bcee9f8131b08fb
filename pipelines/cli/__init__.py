"""The command line: one function per command, one line per command in a table.

May import everything below. Start with `app.py`.
"""
