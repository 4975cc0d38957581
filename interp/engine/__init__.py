"""The engine: every causal analysis is a list of interventions, and this runs the list.

interventions   what is done to an activation; cells, hops and named readers
sweep/          cells over prompts, batch by batch, into one table
decode/         what is said under interventions: steps, choices of tokens, beams
circuits/       cells that are sets of edges: one pass with masks
plain/          runs without interventions: captured activations, means over a data set
gradients/      of a metric, at every writer and reader
engines/        replay (re-runs what an intervention changes), hooked (full forwards), recurrent
plan/           what is asked, for which rows, at what cost
network/        the model's parameters as frozen dataclasses; pure functions; the trace of a run
checkpoint      finished batches on disk
provenance      what a table says of how it was made
"""

from interp.engine import interventions as interventions
