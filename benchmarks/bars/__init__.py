"""The bars, one module a section; each has a function `tasks` that says what there is to measure."""
