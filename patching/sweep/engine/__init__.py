"""The same numbers as sweep/loop.py, fast.

The loop runs the whole model once for each cell, and nearly all of that repeats
the unpatched run. The engine computes only the rest, and computes it exactly:

1. Plan each cell (plan.py). Below the patched block and before the patched
   position, the patched run equals the base run. Many cells have the base run's or
   the source run's value and need no run of their own. The others are experiments.
2. Cut the experiments of all pairs into chunks that fit into memory (chunks.py).
3. Pack a chunk into one batch (packing.py). The vectors (C,) of all runs stand one
   after another as rows; an experiment has rows only where it differs.
4. Run the batch through the blocks once, from the bottom (forward.py).
5. After each block, let the experiments that patch this block join (site_rules.py):
   compute their first rows from the activations of base and source run in it.
6. At the top, read the metrics off every run's last position (measure.py, which
   calls all of the above). memory.py says how much memory a sweep may take.

Example: resid_post, 3 layers, two prompts of 4 tokens that differ at position 1.
The cell (layer 0, position 2) is an experiment: blocks 1 and 2 run its positions 2
and 3, two rows. The cell (layer 0, position 0) has the base run's value, because
there both runs are the same. So has (layer 2, position 2), because nothing reads
that vector. The cell (layer 2, position 3) has the source run's value.
"""
