"""How fast the sweep is, against the loop, other tools, and what cannot be skipped.

    python scripts/bench.py                  # GPT-2 124M's shape, CPU, some minutes
    python scripts/bench.py --device cuda
    python scripts/bench.py --help

One process, random weights that every tool loads from the same files, the
rounds of all methods in turn, medians. TransformerLens and nnsight take part
where they are installed (the extra `bench`); both do what the loop does, the
whole model once per cell. It writes a table (Markdown) and a plot into figures/.

The floor is the time that the multiply-adds take which no exact method can do
without, at the rate of a large matrix product measured between the rounds.
What they are is written out in `floor`, below.
"""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mingpt.config import PRESETS, GPTConfig
from mingpt.files import replacing
from mingpt.model import GPT
from mingpt.sites import HEAD_SITES, SITES
from patching.cli.common import output
from patching.cli.common.arguments import IndexList, Parser
from patching.cli.common.command import UsageError, run_command, tell
from patching.cli.common.models import find_device
from patching.errors import SweepError
from patching.prompts import PromptPair
from patching.sweep.engine.plan import Experiment, plan_cell
from patching.sweep.metrics import METRICS
from patching.sweep.request import Request
from patching.sweep.run import patch_sweep

COMMAND = "bench.py"
# "Michelle Jones was a top-notch student. Michelle" in GPT-2's tokens, and Smith's.
EXAMPLE = (48736, 5437, 373, 257, 1353, 12, 1662, 354, 3710, 13, 16738)
JONES, SMITH = 5437, 4176
SHAPES = {"gpt2": PRESETS["gpt2"], "small": GPTConfig(n_layer=6, n_head=4, n_embd=64)}
LOOPS = ("plain loop", "TransformerLens", "nnsight")  # the whole model once per cell
PRODUCT = 2048  # rows and columns of the product that the floor's rate is measured with
MOST_APART = 1e-4  # logits, between any two methods


# --------------------------------------------------------------------- what cannot be skipped


def floor(config: GPTConfig, pair: PromptPair, request: Request, metric: str = "logit_diff") -> int:
    """Multiply-adds of a sweep that is exact and reuses all that can be reused.

    Base and source run; each experiment's own rows, in the blocks that they
    pass, of which in the first those after a lone patched vector need no
    query, key or value of their own; what its site needs as it joins; of the
    last block, keys and values of these rows and the rest for the last
    position; of the unembedding, the rows that the metric reads. Layer norms,
    activations and softmaxes, which are no products, count nothing.
    """
    grid = request.grid(config, len(pair))
    cells = [plan_cell(grid, cell, pair.differing) for cell in grid.cells()]
    experiments = [cell for cell in cells if isinstance(cell, Experiment)]
    T, L, C = len(pair), config.n_layer, config.n_embd
    mlp = 2 * C * config.inner_size

    def passing(start: int, blocks: int, is_lone: bool = False) -> int:
        """A sequence whose own rows begin at `start` through the last `blocks` blocks."""
        if blocks == 0:
            return 0
        rows = T - start
        attention = 2 * C * sum(range(start + 1, T + 1))  # position t reads t + 1 keys
        whole = rows * (4 * C * C + mlp) + attention
        last = rows * 2 * C * C + 2 * C * C + 2 * C * T + mlp
        shared = 0
        if is_lone:  # in the first block
            shared = (rows - 1) * 3 * C * C
            if blocks == 1:  # no queries are needed there but the last position's
                shared = (rows - 1) * 2 * C * C + (C * C if rows > 1 else 0)
        return (blocks - 1) * whole + last - shared

    read = 2 * C if METRICS[metric].answers_only else config.vocab_size * C
    sums = passing(0, L) + passing(pair.differing[0], L) + 2 * read
    for one in experiments:
        sums += passing(one.first_position, L - one.first_block, one.single_position) + read
        sums += _joining(config, request.site, one, pair)
    return sums


def _joining(config: GPTConfig, site: str, one: Experiment, pair: PromptPair) -> int:
    """What the rows that the patch changes need until they leave the patched block."""
    C, last = config.n_embd, len(pair) - 1
    mlp = 2 * C * config.inner_size
    if site in ("resid_pre", "resid_mid", "resid_post", "mlp_out"):
        return 0  # known from base and source run
    if site == "attn_out":
        return mlp
    at_top = one.first_block == config.n_layer
    changed = [one.first_position] if one.single_position else range(one.first_position, last + 1)
    if site == "q" and one.cell.layer == 0:  # made from each token alone, and read by its own row
        changed = [position for position in changed if position in pair.differing]
    hs = C // config.n_head
    sums = 0
    for position in [last] if at_top else changed:
        keys = position + 1
        # All of a head's keys or values: those from the first difference on are others.
        others = 1 if one.cell.position is not None else keys - one.first_position
        scores = {"q": keys, "k": others}.get(site, 0)
        mixing = {"z": 0, "v": others}.get(site, keys)
        sums += hs * (scores + mixing) + hs * C + mlp  # the head's part of c_proj, then the MLP
    return sums


# --------------------------------------------------------------------- the methods


@dataclass
class Method:
    """One way to get the grid of a pair: (n_layer, T) logit differences."""

    name: str
    sweep: Callable[[PromptPair], np.ndarray]


def ours(model: GPT) -> list[Method]:
    """The fast sweep and the loop."""
    return [
        Method("fast", lambda pair: patch_sweep(model, pair).values),
        Method("plain loop", lambda pair: patch_sweep(model, pair, method="loop").values),
    ]


def methods(model: GPT, directory: Path, device: torch.device) -> list[Method]:
    """Ours, and those of the tools that are installed, all with the weights in `directory`."""
    found = ours(model)
    if importlib.util.find_spec("transformer_lens") is not None:
        found.append(_transformer_lens(directory, device))
    if importlib.util.find_spec("nnsight") is not None:
        found.append(_nnsight(directory, device))
    return found


def _rows(pair: PromptPair, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return (torch.tensor([ids], device=device) for ids in (pair.clean_ids, pair.corrupt_ids))


def _grid(pair: PromptPair, n_layer: int, logits: Callable[[int, int], torch.Tensor]) -> np.ndarray:
    """The double loop: logits(layer, position) are the patched run's last ones (V,)."""
    cells = []
    for layer in range(n_layer):
        for position in range(len(pair)):
            last = logits(layer, position)
            cells.append(last[pair.foil_id] - last[pair.target_id])
    return torch.stack(cells).view(n_layer, len(pair)).cpu().numpy()


def _transformer_lens(directory: Path, device: torch.device) -> Method:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(directory), device=str(device))

    @torch.no_grad()
    def sweep(pair: PromptPair) -> np.ndarray:
        clean, corrupt = _rows(pair, device)
        wanted = [f"blocks.{layer}.hook_resid_post" for layer in range(bridge.cfg.n_layers)]
        _, cache = bridge.run_with_cache(clean, names_filter=wanted)

        def logits(layer: int, position: int) -> torch.Tensor:
            def patch(activation: torch.Tensor, hook: object) -> torch.Tensor:
                activation[:, position] = cache[wanted[layer]][:, position]
                return activation

            out = bridge.run_with_hooks(corrupt, fwd_hooks=[(wanted[layer], patch)])
            return out[0, -1]

        return _grid(pair, bridge.cfg.n_layers, logits)

    return Method("TransformerLens", sweep)


def _nnsight(directory: Path, device: torch.device) -> Method:
    import nnsight
    from transformers import GPT2LMHeadModel

    model = nnsight.NNsight(GPT2LMHeadModel.from_pretrained(directory).to(device).eval())
    n_layer = len(model.transformer.h)

    @torch.no_grad()
    def sweep(pair: PromptPair) -> np.ndarray:
        clean, corrupt = _rows(pair, device)
        with model.trace(clean):
            kept = nnsight.save([])
            for layer in range(n_layer):
                kept.append(model.transformer.h[layer].output)

        def logits(layer: int, position: int) -> torch.Tensor:
            with model.trace(corrupt):
                model.transformer.h[layer].output[:, position] = kept[layer][:, position]
                out = model.lm_head.output.save()
            return out[0, -1]

        return _grid(pair, n_layer, logits)

    return Method("nnsight", sweep)


# --------------------------------------------------------------------- measuring


@dataclass
class Clock:
    """Seconds of a call on a device, and the rate of products there."""

    device: torch.device
    factors: torch.Tensor = field(init=False)
    product: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        size = PRODUCT if self.device.type == "cpu" else 4 * PRODUCT
        self.factors = torch.randn(size, size, device=self.device)
        self.product = self.factors @ self.factors

    def seconds(self, call: Callable[[], object]) -> float:
        """One call's, waiting for the device before and after."""
        self._wait()
        started = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - started

    def rate(self) -> float:
        """Multiply-adds a second of one large float32 product."""
        call = lambda: torch.mm(self.factors, self.factors, out=self.product)  # noqa: E731
        return len(self.factors) ** 3 / min(self.seconds(call) for _ in range(3))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class Timed:
    """What came out of the rounds."""

    seconds: dict[str, list[float]]  # by method, of those that ran
    grids: dict[str, np.ndarray]
    rate: float  # multiply-adds a second, median of the rounds

    def median(self, name: str) -> float:
        """Seconds."""
        return statistics.median(self.seconds[name])

    def cell(self, name: str, rounds: int) -> str:
        """The median as a table shows it; of a loop, how many times fast's too."""
        if name not in self.seconds:
            return "not run"
        text = _short(self.median(name))
        if name in LOOPS:
            text += f", {self.median(name) / self.median('fast'):.1f} x"
        count = len(self.seconds[name])
        return text if count == rounds else f"{text} ({count})"

    def apart(self) -> float:
        """The largest difference between any two methods in any cell."""
        return float(np.ptp(np.stack([*self.grids.values()]), axis=0).max())


def in_turn(
    clock: Clock,
    calls: dict[str, Callable[[], np.ndarray]],
    settings: Settings,
    report: Report,
    loop_seconds: float = 0.0,
) -> Timed:
    """Warm every call up, then run them in turn, round after round.

    Args:
        loop_seconds: about what a loop takes. One that would outlast the
            patience is left out; one that would not, but not every round of it,
            gets the rounds that fit.
    """
    seconds: dict[str, list[float]] = {}
    grids: dict[str, np.ndarray] = {}
    rounds: dict[str, int] = {}
    for name, call in calls.items():
        if name in LOOPS and loop_seconds > settings.patience:
            continue
        report.step(f"{name}: warm-up")
        took = clock.seconds(lambda call=call, name=name: grids.__setitem__(name, call()))
        fits = max(1, int(settings.patience / took)) if name in LOOPS else settings.rounds
        rounds[name] = min(settings.rounds, fits)
        seconds[name] = []
    rates = []
    for number in range(settings.rounds):
        rates.append(clock.rate())
        for name in seconds:
            if number < rounds[name]:
                report.step(f"{name}: round {number + 1} of {rounds[name]}")
                seconds[name].append(clock.seconds(calls[name]))
    return Timed(seconds, grids, statistics.median(rates))


@torch.no_grad()
def loop_seconds(clock: Clock, model: GPT, pair: PromptPair) -> float:
    """About what a loop over the whole model takes: one forward for each cell."""
    ids = torch.tensor([pair.corrupt_ids], device=clock.device)
    model(ids)
    return clock.seconds(lambda: model(ids)) * model.config.n_layer * len(pair)


def made_pair(T: int, vocab_size: int) -> PromptPair:
    """The example, or as long a one of random tokens, that differs at position 1 too."""
    clean = list(EXAMPLE) if len(EXAMPLE) == T else Random(T).choices(range(vocab_size), k=T)
    at = min(1, T - 1)
    clean[at] = JONES
    corrupt = [*clean]
    corrupt[at] = SMITH
    return PromptPair.from_ids(clean, corrupt, JONES, SMITH)


def peak_of_fast(settings: Settings, model: GPT) -> int | None:
    """Bytes that the first fast sweep of this process takes beside a model that has been run."""
    pair = made_pair(settings.lengths[0], model.config.vocab_size)
    with torch.no_grad():
        model(torch.tensor([pair.clean_ids], device=settings.device))
    return peak_bytes(settings.device, lambda: patch_sweep(model, pair))


def peak_bytes(device: torch.device, call: Callable[[], object]) -> int | None:
    """The most that a call held beside what was there before; None where no one can say."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        clear.write_text("5")  # the high-water mark becomes what is held now
        before = _status(status, "VmRSS")
        call()
        return _status(status, "VmHWM") - before
    except OSError:
        return None


def _status(path: Path, name: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


# --------------------------------------------------------------------- the report


class Report:
    """What is printed, and written to a file at the end; notes on what runs go to stderr."""

    def __init__(self, quiet: bool) -> None:
        self.lines: list[str] = []
        self.on_terminal = sys.stderr.isatty() and not quiet

    def say(self, line: str = "") -> None:
        """A line of the report."""
        self.step("")
        self.lines.append(line)
        tell(line, sys.stdout)

    def row(self, *cells: str) -> None:
        """A row of a table."""
        self.say(f"| {' | '.join(cells)} |")

    def head(self, *cells: str) -> None:
        """The first row of a table."""
        self.say()
        self.row(*cells)
        self.row(*("---:" for _ in cells))

    def step(self, what: str) -> None:
        """What is going on, where somebody looks."""
        if self.on_terminal:
            print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


def describe(settings: Settings, config: GPTConfig) -> str:
    """The model, the machine, the versions."""
    versions = []
    for name in ("torch", "numpy", "transformers", "transformer-lens", "nnsight"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    if settings.device.type == "cuda":
        where = torch.cuda.get_device_name(settings.device)
    else:
        where = f"{_processor()}, {torch.get_num_threads()} threads"
    return (
        f"{config.n_layer} layers, {config.n_head} heads, width {config.n_embd}, random weights,"
        f" float32; {where}; Python {platform.python_version()}, {', '.join(versions)}."
        f" Medians of {settings.rounds} rounds, all methods in turn, after a warm-up; where fewer"
        " fitted, their number is given."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _short(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{1e3 * seconds:.3g} ms"


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    lengths: list[int]
    rounds: int
    patience: float  # seconds of each method at each length
    device: torch.device


def against_others(
    report: Report, settings: Settings, model: GPT, ways: list[Method], memory: int | None
) -> dict[int, Timed]:
    """Every method at every length; one line of the table for each length."""
    clock, config = Clock(settings.device), model.config
    names = [way.name for way in ways]
    report.head("tokens", "cells", *names, "floor", "fast / floor", "apart")
    results = {}
    for T in settings.lengths:
        pair = made_pair(T, config.vocab_size)
        calls = {way.name: lambda way=way, pair=pair: way.sweep(pair) for way in ways}
        timed = in_turn(clock, calls, settings, report, loop_seconds(clock, model, pair))
        least = floor(config, pair, Request()) / timed.rate
        results[T] = timed
        report.row(
            str(T),
            str(config.n_layer * T),
            *(timed.cell(name, settings.rounds) for name in names),
            _short(least),
            f"{timed.median('fast') / least:.2f}",
            f"{timed.apart():.1e}" if len(timed.grids) > 1 else "",
        )
    rates = [2 * timed.rate / 1e9 for timed in results.values()]
    report.say()
    report.say(
        "Beside a loop's time: how many times fast's. Floor: the multiply-adds that cannot be"
        f" skipped, at the rate of one large product measured between the rounds ({min(rates):.0f}"
        f" to {max(rates):.0f} GFLOP/s). Apart: the largest difference between any two methods, in"
        " logits."
    )
    if memory is not None:
        report.say()
        report.say(
            f"Peak memory of the fast sweep of {settings.lengths[0]} tokens beside the loaded"
            f" model: {memory / 1e6:.0f} MB."
        )
    return results


def every_site(report: Report, settings: Settings, model: GPT) -> float:
    """Every site, and KL, at the first length.

    Returns:
        The largest difference from the loop, which is run for a few cells.
    """
    pair = made_pair(settings.lengths[0], model.config.vocab_size)
    requests = {site: Request(site) for site in SITES}
    requests |= {f"{site} by position": Request(site, by_position=True) for site in HEAD_SITES}

    def sweep(request: Request, **more: object) -> np.ndarray:
        where = {"site": request.site, "by_position": request.by_position}
        return patch_sweep(model, pair, **where, **more).values

    calls = {name: lambda r=request: sweep(r) for name, request in requests.items()}
    calls["resid_post, kl"] = lambda: sweep(Request(), metric="kl")
    timed = in_turn(Clock(settings.device), calls, settings, report)
    report.head("site", "cells", "fast", "/ resid_post", "floor", "fast / floor")
    for name in calls:
        metric = "kl" if name.endswith("kl") else "logit_diff"
        request = requests.get(name, Request())
        least = floor(model.config, pair, request, metric) / timed.rate
        took = timed.median(name)
        report.row(
            name, str(timed.grids[name].size), timed.cell(name, settings.rounds),
            f"{took / timed.median('resid_post'):.2f}", _short(least), f"{took / least:.2f}",
        )  # fmt: skip
    worst = 0.0
    for name, request in requests.items():
        report.step(f"{name}: some cells by the loop")
        some: dict[str, list[int]] = {"layers": [0, -2, -1]}
        if request.site in HEAD_SITES:
            some["heads"] = [1]
        if request.site not in HEAD_SITES or request.by_position:
            some["positions"] = [1, -1]
        looped = sweep(request, method="loop", **some)
        there = np.isfinite(looped)
        worst = max(worst, apart(looped[there], timed.grids[name][there]))
    report.say()
    report.say(
        f"Largest difference from the loop in some cells of each site, {worst:.1e} logits:"
        " positions 1 and -1, head 1, the first and the last two layers."
    )
    return worst


def half_precision(report: Report, settings: Settings, model: GPT) -> None:
    """How far a sweep in half precision is from the float32 one; a report, not a bound."""
    pair = made_pair(settings.lengths[0], model.config.vocab_size)
    exact = patch_sweep(model, pair)
    spread = float(np.ptp(exact.values))
    report.head("dtype", "fast from float32", "loop from float32", "largest - smallest cell")
    for dtype in (torch.bfloat16, torch.float16):
        report.step(f"{dtype}")
        half = copy.deepcopy(model).to(dtype)
        away = []
        for method in ("fast", "loop"):
            try:
                found = patch_sweep(half, pair, method=method)
                away.append(f"{apart(found.values, exact.values):.1e}")
            except SweepError:  # it overflows
                away.append("not finite")
        report.row(str(dtype).removeprefix("torch."), *away, f"{spread:.1e}")


def growth(
    report: Report, settings: Settings, model: GPT, ways: list[Method], known: dict[int, Timed]
) -> Figure:
    """Time against tokens and against layers, for the fast sweep and the loop, with exponents."""
    clock, config = Clock(settings.device), model.config
    tokens: dict[int, Timed] = dict(known)
    for T in {8, 16, 64} - known.keys():
        if max(known) > T:
            pair = made_pair(T, config.vocab_size)
            calls = {way.name: lambda way=way, pair=pair: way.sweep(pair) for way in ways[:2]}
            about = loop_seconds(clock, model, pair)
            tokens[T] = in_turn(clock, calls, settings, report, about)
    layers: dict[int, Timed] = {config.n_layer: known[settings.lengths[0]]}
    pair = made_pair(settings.lengths[0], config.vocab_size)
    for n_layer in sorted(
        {config.n_layer // 6, config.n_layer // 3, config.n_layer * 2 // 3} - {0}
    ):
        torch.manual_seed(0)
        short = GPT(replace(config, n_layer=n_layer)).eval().to(settings.device)
        calls = {way.name: lambda way=way: way.sweep(pair) for way in ours(short)}
        about = loop_seconds(clock, short, pair)
        layers[n_layer] = in_turn(clock, calls, settings, report, about)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    report.head("growth with", "method", "from", "to", "exponent")
    for axes, what, points in zip(
        figure.subplots(1, 2, sharey=True), ("tokens", "layers"), (tokens, layers), strict=True
    ):
        for name, marker in (("plain loop", "s"), ("fast", "o")):
            at = sorted(number for number, timed in points.items() if name in timed.seconds)
            if len(at) < 2:
                continue
            took = [points[number].median(name) for number in at]
            exponent = float(np.polyfit(np.log(at), np.log(took), 1)[0])
            axes.loglog(at, took, marker=marker, label=f"{name}: {what}$^{{{exponent:.2f}}}$")
            report.row(what, name, str(at[0]), str(at[-1]), f"{exponent:.2f}")
        other = f"{config.n_layer} layers" if what == "tokens" else f"{len(pair)} tokens"
        axes.set_xticks(sorted(points), [str(number) for number in sorted(points)])
        axes.minorticks_off()
        axes.set_xlabel(what)
        axes.set_title(f"{other}, width {config.n_embd}, {settings.device.type}", fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.axes[0].set_ylabel("seconds per sweep of resid_post")
    return figure


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference between two grids."""
    return float(np.abs(a - b).max())


# --------------------------------------------------------------------- the command


def build_parser() -> Parser:
    """The command's options."""
    parser = Parser(prog=COMMAND, description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="gpt2", help="default: gpt2")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument(
        "--lengths", type=IndexList, default=IndexList("11,32,128"), metavar="LIST",
        help="tokens of the prompts, 11 being the example; default: 11,32,128",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument(
        "--patience", type=float, default=120, metavar="SECONDS",
        help="for the rounds of a method at a length; what takes longer for one is left out,"
        " except the fast sweep; default: 120",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N", help="default: PyTorch's choice")
    parser.add_argument("--out", default="figures/", metavar="DIR", help="default: figures/")
    parser.add_argument("--quiet", action="store_true", help="no note of what is being run")
    return parser


def run(argv: Sequence[str]) -> None:
    """Parse, measure, print, write.

    Raises:
        UsageError: bad arguments, or methods that disagree.
    """
    arguments = build_parser().parse_args(argv)
    config = SHAPES[arguments.shape]
    if arguments.rounds < 1 or (arguments.threads or 1) < 1:
        raise UsageError("--rounds and --threads must be at least 1")
    if not 0 < arguments.patience < float("inf"):
        raise UsageError(f"--patience must be above 0, not {arguments.patience}")
    lengths = arguments.lengths.of("length", config.block_size + 1)
    if lengths[0] < 2:
        raise UsageError("--lengths: prompts of at least 2 tokens")
    out = Path(arguments.out)
    device = find_device(arguments.device, "float32")
    table, plot = (out / f"bench-{arguments.shape}-{device.type}.{end}" for end in ("md", "png"))
    output.check_writable(table)
    output.check_writable(plot)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = Settings(lengths, arguments.rounds, arguments.patience, device)
    report = Report(arguments.quiet)
    report.say(f"`python scripts/bench.py {' '.join(argv)}".rstrip() + "`")
    report.say()
    report.say(describe(settings, config))
    with tempfile.TemporaryDirectory() as folder:
        write_weights(config, Path(folder))
        model = GPT.from_pretrained(folder).to(device)
        memory = peak_of_fast(settings, model)  # before any other tool takes some
        ways = methods(model, Path(folder), device)
        results = against_others(report, settings, model, ways, memory)
        worst = max(timed.apart() for timed in results.values())
        worst = max(worst, every_site(report, settings, model))
        half_precision(report, settings, model)
        figure = growth(report, settings, model, ways, results)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(table) as part, replacing(plot) as drawn:
        part.write_text("\n".join(report.lines) + "\n", encoding="utf-8")
        figure.savefig(drawn, dpi=150, format="png")
    print(f"wrote {table} and {plot}", file=sys.stderr)
    if worst > MOST_APART:
        raise UsageError(f"two methods are {worst:.1e} logits apart")


def write_weights(config: GPTConfig, directory: Path) -> None:
    """A GPT-2 of random weights, made by transformers where it is installed."""
    torch.manual_seed(0)
    if importlib.util.find_spec("transformers") is None:
        GPT(config).save_pretrained(directory)
        return
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    made = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_layer=config.n_layer, n_head=config.n_head, n_embd=config.n_embd,
            vocab_size=config.vocab_size, n_positions=config.block_size,
        )
    )  # fmt: skip
    made.save_pretrained(directory)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the weights are here
    matplotlib.rcParams["font.family"] = "DejaVu Sans"
    return run_command(COMMAND, run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
