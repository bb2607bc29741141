"""Scripts of rule nodes: JavaScript and TBEL, as exports have them.

A body that is one expression (a third of all) is evaluated here: `lexer`, `parser`, `evaluate`,
`builtins`. Everything else is for the worker (`worker.py`), a process of its own.
"""
