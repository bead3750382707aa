"""mingpt-patch: one pair of prompts -> tokens, next-token tables, heatmap, result files.

Options are checked before a model is loaded, as far as that is possible.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from click import FLOAT, Choice, IntRange, Option

from mingpt.sites import SITES, heads_at
from patching.cli import patch_output
from patching.cli.common import output
from patching.cli.common.arguments import IndexList, parse_rows
from patching.cli.common.command import Command, UsageError, print_line, run_command
from patching.cli.common.models import import_libraries, load_model
from patching.cli.common.options import (
    files,
    look_options,
    model_options,
    output_options,
)
from patching.cli.common.page import check_html, html_option
from patching.cli.common.pair import pair_texts, prompt_options, with_command
from patching.cli.patch_put import (
    OF_PUT,
    PUT_HELP,
    check_noise,
    file_of_put,
    noise_of,
    noise_options,
    put_of,
    put_options,
    with_pairs,
)  # fmt: skip
from patching.sweep.approximate import APPROXIMATE, DEFAULT_RULES, RELP_RULES, STEPS
from patching.sweep.engine.memory import parse_size
from patching.sweep.metrics import METRICS
from patching.sweep.put import Put
from patching.sweep.request import DIRECTIONS, METHODS, Request

if TYPE_CHECKING:
    from mingpt.config import GPTConfig
    from patching.cli.common.models import LoadedModel
    from patching.prompts import PromptPair
    from patching.sweep.agreement import Agreement
    from patching.sweep.result import SweepResult

COMMAND = patch_output.COMMAND
NEXT_TOKENS = 10  # of each patched run, on the page
EXAMPLE = {
    "clean": "Michelle Jones was a top-notch student. Michelle",
    "corrupt": "Michelle Smith was a top-notch student. Michelle",
    "target": "Jones",
    "foil": "Smith",
}


DESCRIPTION = """\
Activation patching: which vector carries the answer?

The clean and the corrupt prompt are run. Then, for every layer and every token,
the corrupt prompt is run with that one residual-stream vector replaced by the
clean one. Each time the logit difference of the next token is read:
    logit(foil) - logit(target)
It is positive where the model still gives the foil, and negative where the patch
has turned it to the target. The heatmap shows all of them, layer 0 on top.
--site patches other activations, --direction patches the other way round, and
--metric reads other numbers.
"""
EPILOG = f"""\
prompts:
  Both prompts must have the same number of tokens. Target and foil must be one
  token each: a word is looked up with a leading space ("Jones" is the token
  " Jones"), text that starts with a space or a punctuation mark is taken as it
  is, and id:5437 names a token directly. --target Jones --target Davis is a set:
  its logit is the log-sum-exp of the words' logits, its probability their sum.
  target_logit, log_prob and kl need no --foil.

sites, in the order of a block:
  resid_pre          the residual stream as it enters the block
  q, k, v            queries, keys, values of each attention head (where heads
                     share keys and values, k and v have fewer heads)
  pattern            attention weights of each head, a row for each query
  z                  output of each head, before c_proj mixes them
  attn_out           what attention adds to the stream
  resid_mid          the stream between attention and MLP
  mlp_out            what the MLP adds to the stream
  resid_post         the stream as it leaves the block (default)

metrics (several with commas between them, read from the same runs):
  logit_diff         logit(foil) - logit(target)
  target_logit       logit(target), patched minus clean
  log_prob           ln p(target)
  prob_diff          p(foil) - p(target)
  kl                 KL(clean || patched) of the next token, in nats
  recovery           of logit_diff: 0 is the corrupt run, 1 the clean one

directions:
  denoise            clean into corrupt: which activation brings the answer back?
  noise              corrupt into clean: without which activation is it lost?
  With --put zero, mean or resample the direction says which run is patched:
  denoise the corrupt one, noise the clean one.
  The metrics are the same in both; in noise, recovery 1 means no effect.
  Note the sign: a positive logit_diff favours the foil; in mingpt-explain a
  positive number favours the target.

{PUT_HELP}

methods:
  fast               every cell, exactly, in one pass
  loop               the definition, slow: the whole model once for each cell
  attribution        APPROXIMATE, to first order: two passes and a gradient, no
                     patched run. It is poor on the residual stream, above all in
                     low layers, and where attention is saturated (q, k). It is
                     usually better on z, v, attn_out and mlp_out. It is also poor
                     for saturated metrics (log_prob, prob_diff, kl), whose
                     estimates can leave their range. --compare-exact measures it.
  attribution-ig     APPROXIMATE: gradients of --steps runs between the two, averaged
                     (EAP-IG's inputs). It costs as many times attribution's. It can
                     see what is saturated in one of the runs; with few steps it can
                     also be worse.
  relp               APPROXIMATE: attribution at the same cost, with a backward pass
                     through rules. ln: layer norms divide by constants. gelu: the
                     MLP's activation multiplies by one. pattern: attention patterns
                     are constant, so what acts through q and k is lost (off by
                     default). It is meant for the stream and mlp_out, where
                     attribution is poor. Which is nearer differs: --compare-exact.

examples:
  {COMMAND} --model builtin
      the example of the README on the model that ships with the project
  {COMMAND} --clean "When Mary and John went to the store, John gave a drink to" \\
      --corrupt "When Mary and John went to the store, Mary gave a drink to" \\
      --target Mary --foil John --metric recovery --model builtin
  {COMMAND} --model builtin --site z --direction noise --metric recovery,kl
      without which heads is the answer lost?
  {COMMAND} --model builtin --site z --put zero
      which heads is the clean run lost without?
  {COMMAND} --model gpt2 --site z --put mean --mean-over ioi.csv
      ... with each head at its mean over the clean prompts of a file of pairs
  {COMMAND} --model builtin --corrupt-by gaussian --subject "Michelle Jones" --metric recovery
      causal tracing: which vector undoes noise on the subject?
  {COMMAND} --model builtin --report hand-in/
      a folder with figure, caption, tables and numbers
  {COMMAND} --model builtin --html --out michelle.png
      michelle.html too, to open in a browser
  {COMMAND} --model gpt2 --site mlp_out --window 5 --out run/
      the MLPs of five layers at a time, as causal tracing does
  {COMMAND} --model gpt2 --layers 0,3,5-7 --positions -1 --json --out run/
  {COMMAND} --model gpt2-xl --site z --method attribution
      where to look first, for the cost of a few passes

exit codes: 0 done; 2 bad input, with one line on stderr; 130 interrupted.
"""


OPTIONS = Command(COMMAND, DESCRIPTION, EPILOG, {
    "prompts (default: the README's example)": prompt_options(
        "; --put zero, mean and resample need none"
    ),
    "model": model_options(seed="of the prompt that --put resample chooses, and of noise"),
    "sweep": [
        Option(["--site"], type=Choice([*SITES]), default=Request.site),
        Option(["--direction"], type=Choice([*DIRECTIONS]),
               help="[default: denoise; noise for an ablation (--put) without --corrupt]"),
        Option(["--metric"], metavar="LIST", default=Request.metric,
               help=f"one or more of {', '.join(METRICS)}"),
        Option(["--layers"], type=IndexList, metavar="LIST", help="as 0,3,5-7 or -1; default: all"),
        Option(["--positions"], type=IndexList, metavar="LIST",
               help="tokens, as --layers; default: all"),
        Option(["--heads"], type=IndexList, metavar="LIST",
               help="heads, as --layers, at a site that has heads; default: all"),
        Option(["--by-position"], is_flag=True,
               help="at a site with heads: patch one position at a time; one panel for each head"),
        Option(["--window"], type=IntRange(1), default=Request.window, metavar="N",
               help="patch N layers around each one together (attn_out and mlp_out)"),
    ],
    "intervention": [
        *put_options(),
        *noise_options(),
    ],
    "speed": [
        Option(["--method"], type=Choice(METHODS), default=Request.method,
               help="loop: the whole model once per cell, the same numbers as fast;"
               f" {', '.join(APPROXIMATE)}: approximate, by gradients"),
        Option(["--relp-rules"], metavar="LIST",
               help=f"relp: some of {','.join(RELP_RULES)}; default: {','.join(DEFAULT_RULES)}"),
        Option(["--steps"], type=IntRange(1), metavar="N",
               help=f"attribution-ig: the gradients that are averaged; default: {STEPS}"),
        Option(["--compare-exact"], is_flag=True,
               help=f"{', '.join(APPROXIMATE)}: run the exact sweep too; print and draw how well"
               " the two agree"),
        Option(["--max-memory"], metavar="SIZE",
               help="memory for the fast method beside the model, as 800M or 4GB; default:"
               " half of what is free"),
        Option(["--tf32"], is_flag=True,
               help="on CUDA, multiply in TF32 (10-bit factors): faster, less exact; the"
               " figure says so"),
    ],
    "figure": [
        *look_options(),
        Option(["--scale"], type=Choice(("runs", "data")), default="runs",
               help="what the colours span. runs: the unpatched clean and corrupt runs, and the"
               " cells where they go beyond; data: the cells alone"),
        Option(["--vmin"], type=FLOAT, metavar="X",
               help="the value of the first colour, in place of --scale's"),
        Option(["--vmax"], type=FLOAT, metavar="X", help="the value of the last colour"),
        Option(["cell_values", "--values/--no-values"], default=None,
               help="write each cell's number into it; default: up to 60 cells"),
    ],
    "output": [
        *output_options(Request.rows),
        html_option("hover and click cells, see what each patched run says next"),
        Option(["--report"], metavar="DIR", shell_complete=files,
               help="write a folder to hand in, in place of --out: figures (PNG, SVG), tables"
               " (Markdown, LaTeX), numbers, command, versions and a caption"),
    ],
})  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(OPTIONS, run, argv)


def run(arguments: SimpleNamespace) -> None:
    """Load, sweep, print and write."""
    request = _request(arguments)
    of_put = file_of_put(arguments)
    texts = _texts(arguments, request)
    rows = parse_rows(arguments, Request.rows)

    import_libraries(drawing=True)  # after the first checks: it is slow
    from patching.cli import patch_report
    from patching.cli.common import tables
    from patching.prompts import PromptPair
    from patching.sweep import figures
    from patching.sweep.run import check_pair

    look = figures.Look(
        arguments.cmap,
        arguments.title,
        arguments.scale,
        arguments.vmin,
        arguments.vmax,
        arguments.cell_values,
    )
    folder = patch_output.report_folder(arguments)
    if arguments.html:
        check_html()
    place = None if folder is not None else patch_output.place(arguments, request)
    say = output.make_say(arguments)
    loaded = load_model(arguments, arguments.model)
    say(tables.model_line(loaded.model, loaded.fallback), always=True)
    limit = loaded.model.config.block_size
    pair = PromptPair.from_text(loaded.tokenizer, **texts, most_tokens=limit)
    check_pair(loaded.model, pair)
    request = replace(request, corrupt_by=noise_of(arguments, loaded, texts["clean"]))
    request.check_runs(pair)
    request = replace(request, rows=rows, **_indices(arguments, loaded.model.config, len(pair)))
    say(f"\n{tables.pair_table(pair)}")
    request = replace(request, put=with_pairs(request.put_in, of_put, loaded, say))
    results = _sweep(arguments, loaded, pair, request)
    result = results[0]
    say(f"\n{tables.next_tokens_of(result)}\n")
    say(patch_report.summary(result, output.fallback_notes(loaded.fallback)))
    agreement: dict[str, Agreement] = {}
    if len(results) > 1:
        from patching.sweep.agreement import compare_sweeps

        agreement = compare_sweeps(result, results[1])
        say(f"\n{patch_report.agreement_table(result, results[1], agreement)}\n")
    if place is not None:
        written = patch_output.write(results, place, loaded, look, html=arguments.html)
    else:
        written = patch_output.write_report(result, folder, look)
    output.say_written(say, written)
    if arguments.json:
        more: dict[str, Any] = {}
        if agreement:
            more["agreement"] = {name: asdict(found) for name, found in agreement.items()}
        more["paths"] = [str(path) for path in written]
        print_line(json.dumps({**result.to_dict(), **more}, allow_nan=False), sys.stdout)


def _request(arguments: SimpleNamespace) -> Request:
    """Return the request, checked as far as that is possible without a model.

    --heads and --positions depend on the model and the prompts. Until these are known,
    [0] stands for each of them.
    """
    # Estimates run no cell, and with noise a cell is a mean over draws.
    has_cells = arguments.method not in APPROXIMATE and arguments.corrupt_by is None
    request = Request(
        site=arguments.site,
        metric=arguments.metric,
        direction=arguments.direction or _direction(arguments),
        by_position=arguments.by_position,
        window=arguments.window,
        heads=[0] if arguments.heads else None,
        positions=[0] if arguments.positions else None,
        method=arguments.method,
        put=put_of(arguments),
        corrupt_by=check_noise(arguments),
        max_memory=None if arguments.max_memory is None else parse_size(arguments.max_memory),
        tf32=arguments.tf32,
        next_tokens=NEXT_TOKENS if arguments.html and has_cells else 0,
        relp_rules=arguments.relp_rules,
        steps=arguments.steps,
    )
    if arguments.compare_exact and not request.is_approximate:
        raise UsageError(
            f"--compare-exact needs --method {' or '.join(APPROXIMATE)}; the others are exact"
        )
    return request


def _direction(arguments: SimpleNamespace) -> str:
    """Return the direction where none was given: without a corrupt prompt the clean run is left."""
    is_ablation = arguments.corrupt is None and arguments.put != Put.what
    return "noise" if is_ablation else Request.direction


def _texts(arguments: SimpleNamespace, request: Request) -> dict[str, Any]:
    """Return the prompts and answers that were given, or the example's.

    An ablation, and noise in its place, leave the example's corrupt prompt out.

    Raises:
        UsageError: some are missing, such as the foil of a metric that needs one.
        SweepError: the request needs the corrupt prompt that was left out.
    """
    needs_none = not request.put_in.is_recorded or arguments.corrupt_by is not None
    is_left_out = arguments.corrupt is None
    if is_left_out and not needs_none and arguments.clean and arguments.target:
        raise UsageError(
            "--corrupt missing: give it too, or ablate the clean run (--put zero, mean or"
            " resample), or put noise in its place (--corrupt-by gaussian)"
        )
    optional = ["foil", "corrupt"] if needs_none else ["foil"]
    texts = pair_texts(arguments, EXAMPLE, request.metrics, optional=optional)
    if needs_none and is_left_out:
        texts["corrupt"] = None
        if arguments.corrupt_by is None:
            request.check_alone()
    return texts


def _indices(arguments: SimpleNamespace, config: GPTConfig, T: int) -> dict[str, Any]:
    """Return the layers, heads and positions of the command line; None means all."""
    sizes = {"layer": config.n_layer, "head": heads_at(arguments.site, config), "position": T}
    asked = {axis: getattr(arguments, f"{axis}s") for axis in sizes}
    return {
        f"{axis}s": None if asked[axis] is None else asked[axis].of(axis, size)
        for axis, size in sizes.items()
    }


def _sweep(
    arguments: SimpleNamespace,
    loaded: LoadedModel,
    pair: PromptPair,
    request: Request,
) -> list[SweepResult]:
    """Return the sweep (with --compare-exact also the exact one) with the command's arguments."""
    from patching.sweep.run import run_sweep

    requests = [request]
    if arguments.compare_exact:
        requests.append(replace(request, method="fast", relp_rules=None, steps=None))
    asked = (
        *output.MODEL_ARGUMENTS, *patch_output.LOOK, *OF_PUT, "format", "compare_exact",
    )  # fmt: skip
    results = []
    for one in requests:
        progress = False if arguments.quiet else None
        (found,) = run_sweep(loaded.model, [pair], one, progress)
        results.append(with_command(found, arguments, asked, loaded))
    # The methods differ by rounding: all results get the tables that are printed.
    clean, corrupt = results[0].clean_next, results[0].corrupt_next
    return [replace(found, clean_next=clean, corrupt_next=corrupt) for found in results]
