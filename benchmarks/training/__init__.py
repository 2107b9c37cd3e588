"""Small networks whose training yields the recorded Gramians; each module is one kind of problem.

Every module has generators of (name, Gramian) pairs. All of it runs in float64, from fixed seeds.
"""
