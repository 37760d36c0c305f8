"""Tests. CONTRIBUTING.md says what stands in which folder.

Every folder is a package, so that a module has one name, tests.FOLDER.MODULE, in pytest, under `python -m`
and where another module imports it. pytest's import mode `importlib` would do without, but under it tests
find each other, and programs that they start find them, by luck of sys.path alone.
"""
