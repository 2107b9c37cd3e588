"""The integers that kernels return.

The first four are the values of :class:`mojd.Status`; the rest say why a Gramian was refused.
"""

OPTIMAL = 0
INFEASIBLE = 1
NONFINITE = 2
MAX_ITER = 3

FIRST_REFUSAL = 16
ASYMMETRIC = 16
NEGATIVE_DIAGONAL = 17
NOT_PSD = 18

# No answer: a closed form leaves the problem to the general solver.
UNSETTLED = 64
