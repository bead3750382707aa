"""An HTML page of a result, in one file that needs no network."""
