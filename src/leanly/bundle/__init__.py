"""The folder that ships: saving, verifying, signing and loading it.

Making artifacts belongs in `lowering`, opening one in `runtimes`.
"""
