"""The command line: one file a command, which only reads what was typed, calls the package and prints.

Anything worth calling from Python belongs in the package below.
"""
