"""The numbers of the loop, fast: what does not change is not computed again.

    record.py     runs a prompt and keeps its activations
    runs.py       both prompts' runs, and the reader of metrics
    senders.py    carries each sender's difference to the receivers (the definition's run C)
    branches.py   runs the base run on from the lowest receiver upward (run D)
    measure.py    puts them together: one map, or a map of edges

Attention is frozen between sender and receiver, so a difference stays at its position. The
stream of run C is computed at the receivers' positions alone, and its attention not at all.
"""
