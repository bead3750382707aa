"""mingpt-patch's text for a terminal."""

from dataclasses import replace

from patching import patch_sweep
from patching.cli import patch_report


def test_a_metric_that_rounds_to_zero_has_no_sign(model, pair):
    result = patch_sweep(model, pair)
    (found,) = result.metrics.values()
    tiny = found._replace(clean=-1e-6, corrupt=-1.0)
    line = patch_report.summary(replace(result, metrics={"logit_diff": tiny})).splitlines()[0]
    assert line.endswith(": clean 0.0000, corrupt -1.0000")
