"""Linearised training: a run of the optimiser as a small recurrence in log-probabilities, driven by gradient features.

The model is linearised around its start: for every response ``r``, ``f_r = ln π_θ(y_r|x_r) − ln π_θ₀(y_r|x_r) ≈
⟨∇_r, θ − θ₀⟩``. An optimiser moves along ``P g``, ``P`` its element-wise scaling, so that training is driven by one
matrix, the entanglement of all responses, ``K_rs = ⟨∇_r, P ∇_s⟩``.

- :class:`CountSketch`: gradients scaled by ``P^½`` as a few numbers, whose inner products are ``K``.
- :class:`Kernel`, :class:`Features`: ``K`` as a matrix, or as features where a matrix would be too large.
- :func:`linearised_run`: the recurrence, with clipping, schedule, momentum, stand-ins and curvature.
- :class:`RunningScale`: what the optimiser's running second moment makes of ``P``.
- :func:`forecast_error`, :func:`probability_below`: how sure a change is.

Learning dynamics by the empirical tangent kernel: Ren and Sutherland, ICLR 2025; count sketch: Charikar, Chen and
Farach-Colton 2002.
"""

from undertow.maths.linearised.contributions import contributions, own_parts, pushes
from undertow.maths.linearised.errors import forecast_error, probability_below
from undertow.maths.linearised.products import Features, Kernel, Products
from undertow.maths.linearised.run import Curvature, LinearisedRun, SampleStep, linearised_run
from undertow.maths.linearised.scale import OptimiserName, RunningScale
from undertow.maths.linearised.sketch import CountSketch, random_signs

__all__ = [
    "CountSketch",
    "Curvature",
    "Features",
    "Kernel",
    "LinearisedRun",
    "OptimiserName",
    "Products",
    "RunningScale",
    "SampleStep",
    "contributions",
    "forecast_error",
    "linearised_run",
    "own_parts",
    "probability_below",
    "pushes",
    "random_signs",
]
