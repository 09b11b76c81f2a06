"""Rows to prompt, chosen and rejected: the layouts that people's data have, and how each is recognised.

``registry.py`` lists the layouts, ``vocabulary.py`` the names that people give the columns, ``layout.py`` says what a
layout is, ``accounting.py`` what else a row may have.
"""
