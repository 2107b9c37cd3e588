"""References that the tests trust: exact enumeration, hard families, an exact KKT check.

Nothing here imports mojd, so that an error in the library cannot hide in its own reference.
"""
