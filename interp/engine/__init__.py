"""The engine: every causal analysis is a list of interventions, and this runs the list.

interventions   what is done to an activation; cells and hops
weights         the model's parameters as frozen dataclasses (views)
forward         the forward pass as pure functions
trace           the activations of a plain run
means           means over reference prompts
edits           interventions resolved for some rows
plan            which cells and rows run together
replay, hooks   the fast engine and the reference engine
engines         one call over both
checkpoint      finished batches on disk
run             a sweep: plan, run, table
"""
