"""Activations of plain runs: kept (`capture`), or averaged (`MeanReference`).

taps               where in a forward something is taken, and how much of it
prompts            tokens, padded or not, as rows of one length
kept, captured     what was taken, in memory; what the user gets
folder             shards and an index on disk, in parts that survive a kill
shards             captures on disk
means, fitter      averages by template or position, as a stream
"""
