"""A grammar of command lines: every option of every command, with good, odd and hostile values.

Models and inputs are named as the folder in test_command_lines.py has them.
"""

import random

LETTERS = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=60_000))  # one piece
CONTROLS = ("\x1b[31mred\x1b[0m", "two\nlines", "a\tb", "\x07", "\u202eabc", "\x9b1m", "\udcff")
HOSTILE = ("", " ", "-", "--", "-x", "--no-such", "-3--1", "NaN", "0", "{}", "%s", *CONTROLS)
INTEGERS = ("-1", "0", "1.5", "1e3", "", "x", "--", "-3--1", "9" * 30, "9" * 5000, "NaN", " 2 ",
            "+2", "0x10", "\u0663", "2**3")  # fmt: skip
REALS = ("-1", "0", "nan", "inf", "-inf", "1e400", "1e-400", "", "x", "--", "1,,2", ",", "none",
         "0.5,nan", "9" * 400)  # fmt: skip
INDICES = ("-3--1", "--", "", ",", "5-2", "99", "-99", "0-", "x", "0," * 3000 + "0", "9" * 30)
SUBJECT = "was a top-notch student."
PAIR = {"--clean": f"Michelle Jones {SUBJECT} Michelle", "--target": "Jones", "--foil": "Smith",
        "--corrupt": f"Michelle Smith {SUBJECT} Michelle"}  # fmt: skip
TEXTS = ("The keys to the cabinet", *list(PAIR.values())[::3], "na\xefve \U0001f600", "a" * 90)
# Options that only make sense together.
TOGETHER = {
    "patch": PAIR,
    "paths": PAIR,
    "explain": {"--text": PAIR["--clean"], "--target": "Jones", "--foil": "Smith"},
}
MODELS = (*("builtin",) * 8, "../models/wide", "../models/width1", "../models/inner1",
          "../models/flat", "../models/nano.pt", "../models/short")  # fmt: skip
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v")

# Kind of value -> values that are fine by themselves, and others.
KINDS = {
    "flag": ((), ()),
    "text": (TEXTS, (*HOSTILE, LETTERS, "word " * 3000, "\u0301" * 500)),
    "word": (("Smith", "Jones", " he", "id:7", "."), ("id:-1", "id:x", "id:" + "9" * 30, *HOSTILE)),
    "model": (
        MODELS,
        ("../models/1e36", "../models/1e38", "../models/red\x1b[31m", "../models/empty", "gpt2",
         "../models/fifo", "../models/loop", "../models/nan", "/dev/zero", "/dev/null", "o/n",
         "x" * 5000, "../inputs/prompts.txt", "https://x/y", "..", *HOSTILE),
    ),
    "device": (("cpu", "auto"), ("cuda", "mps", "CPU", *HOSTILE)),
    "dtype": (("float32", "float64", "bfloat16", "float16"), ("int8", *HOSTILE)),
    "seed": (("0", "1", "12345"), (str(2**63), str(2**64), *INTEGERS)),
    "count": (("1", "2", "3"), INTEGERS),
    "samples": (("1", "2", "5"), ("1000001", *INTEGERS)),
    "tokens": (("1", "2", "5"), ("300", *INTEGERS)),
    "beams": (("1", "2", "4"), ("30000", *INTEGERS)),
    "threads": (("1", "2"), ("1025", *INTEGERS)),
    "scale": (("runs", "data"), ("wide", *HOSTILE)),
    "rows": (("1", "5", "20"), ("4096", *INTEGERS)),
    "real": (("1", "0.5", "2"), REALS),
    "reals": (("1", "0.5,1", "0.9"), ("1," * 3000 + "2", *REALS)),
    "top_k": (("1", "5,none", "30"), ("9" * 30, *REALS)),
    "site": ((*SITES, "pattern"), ("resid", "Z", *HOSTILE)),
    "direction": (("denoise", "noise"), HOSTILE),
    "put": (("recorded", "zero", "mean", "resample"), HOSTILE),
    "corrupt_by": (("gaussian",), HOSTILE),
    "noise_std": (("3s", "0.4", "1.5s"), ("s", "-3s", *REALS)),
    "mean_per": (("position", "role", "all"), HOSTILE),
    "metric": (("logit_diff", "recovery", "kl,log_prob", "prob_diff"), ("kl,kl", ",", *HOSTILE)),
    "indices": (("0", "-1", "0-1", "0,2"), INDICES),
    "method": (
        ("fast", "loop", "attribution", "attribution-ig", "relp"), ("exact", *HOSTILE),
    ),
    "path_method": (("fast", "loop", "eap", "eap-ig"), ("attribution", *HOSTILE)),
    "receiver": (
        ("logits", "q:1.0", "v:1.1,mlp:1", "k:-1.0"),
        ("q:99.0", "q:1", "mlp:1.0", "z:1.1", "q:1.0,1.0", "q:1.1,logits", "q:" + "1.1," * 3000,
         *HOSTILE),
    ),
    "receiver_kinds": (("q", "q,mlp", "logits"), ("z", ",", *HOSTILE)),
    "mlps": (("recomputed", "frozen"), HOSTILE),
    "end": (("end",), ("0", *HOSTILE)),
    "positions": (("end", "0", "-1", "0-1"), INDICES),
    "relp_rules": (("ln", "ln,gelu", "pattern,ln"), ("ln,ln", ",", "half", *HOSTILE)),
    "size": (("800M", "4GB", "1000000000"), ("1", "1K", "-1", "1e400GB", "nanGB", *INTEGERS)),
    "out": (
        ("out/", "run/a.png", "b.svg", "c.pdf", "deep/er/", "~/", "r.json"),
        (".", "..png", ".png", "x.exe", "x.PNG", "n" * 300, "a/" * 1500, "/dev/null", "/dev/full/",
         "/proc/none/", "/proc/x.png", "../inputs/prompts.txt/x.png", "../inputs/loop/x.png",
         "../inputs/dangling/x/", "../inputs/fifo", "red\x1b[31m/", "new\nline/", "\udcff/",
         *HOSTILE),
    ),
    "format": (("png", "svg", "pdf"), ("exe", "PNG", ".png", *HOSTILE)),
    "cmap": (("magma", "Blues", "RdBu"), ("nope", *HOSTILE)),
    "head": (("0.0", "1.3"), ("9.9", "1", "1,3", *HOSTILE)),
    "show": (
        ("alti", "lens,direct", "logit", "alti-logit", "attention"),
        ("alti,alti", ",", *HOSTILE),
    ),
    "prompts": (
        ("../inputs/prompts.txt", "../inputs/prompts.jsonl"),
        ("/dev/zero", "/dev/full", "/dev/null", "../inputs/long.txt", "../inputs/deep.jsonl",
         "../inputs/latin1.txt", "../inputs/blank.txt", "../inputs", "../inputs/loop", *HOSTILE),
    ),
    "patterns": (
        ("he", "she", r"\bthe\b", "a|e"),
        ("(" * 400 + ")" * 400, "(?R)", "(?R)?(?R)?x", "(?:(?R)|.)*", "(a+)+$", "[", "a{9999999}",
         "(?<=a*)b", *HOSTILE),
    ),
    "suggest": (
        ("Smith,Brown", "Smith", "../inputs/prompts.txt"),
        ("/dev/zero", ",", "../inputs/long.txt", "../inputs", "../inputs/latin1.txt", *HOSTILE),
    ),
    "training_text": (
        ("../inputs/train.txt", "../inputs/prompts.txt"),
        ("/dev/zero", "/dev/null", "../inputs/latin1.txt", "../inputs/blank.txt", "../inputs",
         "../inputs/fifo", *HOSTILE),
    ),
    "pairs": (("../inputs/pairs.tsv",), ("../inputs/train.txt", "/dev/zero", *HOSTILE)),
    "family": (("ioi", "agreement", "induction"), ("IOI", "docstring", "x", *HOSTILE)),
    "few_pairs": (("1", "2", "7"), ("99999999", *INTEGERS)),
    "pairs_out": (
        ("a.csv", "b.tsv", "run/c.jsonl", "d.json"),
        ("a.txt", "..csv", ".csv", "run/", "/dev/full/a.csv", "../inputs/prompts.txt/a.csv",
         "n" * 300 + ".csv", *HOSTILE),
    ),
    "pairs_file": (
        ("../inputs/ioi.csv", "../inputs/ioi.csv", "../inputs/marks.jsonl", "../inputs/facts.csv"),
        ("../inputs/prompts.txt", "../inputs/prompts.jsonl", "../inputs/deep.jsonl", "/dev/zero",
         "../inputs/pairs.tsv", "../inputs/fifo", "../inputs", *HOSTILE),
    ),
    "columns": (("target=target", "clean=clean,foil=target"), ("x", "clean=x", "=,=", *HOSTILE)),
    "role": (("S2", "IO", "template", "subject"), ("roles", *HOSTILE)),
    "roles": (("roles", "none", "marks"), ("template", *HOSTILE)),
    "sites": (("z", "resid_post,z", "k,mlp_out"), ("z,z", ",", "resid", *HOSTILE)),
    "align": (("start", "end", "first-diff", "last-diff", "roles"), HOSTILE),
    "folder": (("run/", "deep/er/run"), ("../inputs/prompts.txt", "/dev/null", *HOSTILE)),
    "study": (("../inputs/study",), ("../inputs", "../models/wide", "/dev/zero", *HOSTILE)),
    "cell": (("3:end", "0:S2"), ("9:9", "1.1", ":", ".", *HOSTILE)),
    "tokenizer": (
        ("../inputs/wordpiece.json",),
        ("../inputs/prompts.jsonl", "../inputs/deep.jsonl", "/dev/zero", "../inputs", *HOSTILE),
    ),
    "one": (("1",), ("0", "10001", "-1", "x", "")),
    "nowhere": (("127.0.0.1:1",), HOSTILE),
    "none_of": (("0",), ("-1", "nan", "1.5", "x")),
    "order": (("ABBA", "BABA", "both"), HOSTILE),
    "corruption": (("swap", "new"), HOSTILE),
    "of_recovery": (("ratio", "mean"), HOSTILE),
    "interval": (("percentile", "bca"), HOSTILE),
    "correction": (("max-t", "bh"), HOSTILE),
    "draws": (("100", "500"), ("1", "9999999", *INTEGERS)),
    "confidence": (("0.9", "0.5"), ("0", "1", "0.999999999", *REALS)),
    "compare": (("n_kv_head=3,1", "n_layer=1,2"), ("n_kv_head", "x=1,2", "n_layer=1", *HOSTILE)),
    "words": (("Paris", "Rome", "key"), ("id:7", "no such", LETTERS, *HOSTILE)),
    "vocab": (("bytes", "bpe:300"), ("gpt2", "bpe:1", "bpe:99999999", "words", *HOSTILE)),
    "preset": (("nano",), ("huge", *HOSTILE)),
    "share": (("0.1", "0.2"), ("0.5", "1", *REALS)),
    "bool": (("true", "false"), ("maybe", *HOSTILE)),
    "precision": (("float32", "bfloat16"), HOSTILE),
    "activation": (("gelu", "relu", "gelu_new"), HOSTILE),
    "names": (("gpt2", "distilgpt2"), ("builtin", "o/n", "../models/wide", "o/../n", *HOSTILE)),
}  # fmt: skip
SOURCE = {"--model": "model", "--n-head": "count", "--offline": "flag"}
MODEL = {
    **SOURCE,
    "--device": "device",
    "--dtype": "dtype",
    "--seed": "seed",
    "--threads": "threads",
}
STATISTICS = {
    "--only-correct": "flag", "--both-correct": "flag", "--recovery": "of_recovery",
    "--interval": "interval", "--confidence": "confidence", "--correction": "correction",
    "--draws": "draws", "--flips": "draws", "--seed": "seed", "--max-memory": "size",
}  # fmt: skip
OUTPUT = {"--out": "out", "--format": "format", "--json": "flag", "--quiet": "flag"}
# Command -> option -> kind of its value; "" is the positional arguments.
OPTIONS = {
    "patch": {
        **MODEL, **OUTPUT, "--clean": "text", "--corrupt": "text", "--target": "word",
        "--foil": "word", "--site": "site", "--direction": "direction", "--metric": "metric",
        "--layers": "indices", "--positions": "indices", "--heads": "indices",
        "--by-position": "flag", "--window": "count", "--method": "method", "--put": "put",
        "--relp-rules": "relp_rules", "--steps": "count",
        "--mean-over": "pairs_file", "--mean-per": "mean_per", "--resample-from": "pairs_file",
        "--compare-exact": "flag", "--max-memory": "size", "--tf32": "flag", "--top-k": "rows",
        "--corrupt-by": "corrupt_by", "--subject": "word", "--noise-std": "noise_std",
        "--draws": "count",
        "--rows": "rows", "--cmap": "cmap", "--title": "text", "--scale": "scale", "--vmin": "real",
        "--vmax": "real", "--values": "flag", "--no-values": "flag", "--report": "out",
        "--html": "flag",
    },
    "paths": {
        **MODEL, **OUTPUT, "--clean": "text", "--corrupt": "text", "--target": "word",
        "--foil": "word", "--receiver": "receiver", "--edges": "flag", "--kinds": "receiver_kinds",
        "--mlps": "mlps", "--sender-positions": "positions", "--receiver-positions": "positions",
        "--direction": "direction", "--metric": "metric", "--method": "path_method",
        "--steps": "count", "--compare-exact": "flag", "--max-memory": "size", "--top-k": "rows",
        "--rows": "rows", "--cmap": "cmap", "--title": "text", "--strongest": "count",
        "--html": "flag", "--mib": "flag",
    },
    "explain": {
        **MODEL, **OUTPUT, "--text": "text", "--target": "word", "--foil": "word",
        "--show": "show", "--method": "show", "--top-k": "rows", "--rows": "rows",
        "--cmap": "cmap", "--title": "text", "--head": "head", "--ablate": "head", "--html": "flag",
    },
    "generate": {
        **MODEL, **OUTPUT, "--prompt": "text", "--prompts": "prompts",
        "--max-new-tokens": "tokens", "--num-samples": "samples", "--temperature": "reals",
        "--top-k": "top_k", "--top-p": "reals", "--repetition-penalty": "real",
        "--greedy": "flag", "--num-beams": "beams", "--length-penalty": "real",
        "--stop": "text", "--show-steps": "flag", "--rows": "rows", "--plot": "flag",
        "--count": "patterns", "--title": "text", "--html": "flag",
    },
    "verify": {
        **MODEL, "--long": "flag", "--samples": "samples", "--out": "out", "--json": "flag",
        "--quiet": "flag",
    },
    "embeddings": {
        **MODEL, **OUTPUT, "--words": "words", "--rows": "rows", "--components": "count",
        "--cmap": "cmap", "--title": "text",
    },
    "train": {
        "--text": "training_text", "--pairs": "pairs", "--vocab": "vocab",
        "--val-fraction": "share", "--test-fraction": "share", "--preset": "preset",
        "--from": "model", "--n-layer": "count", "--n-head": "count", "--n-embd": "count",
        "--block-size": "count", "--n-kv-head": "count", "--n-inner": "count",
        "--activation": "activation", "--layer-norm-epsilon": "real", "--bias": "bool",
        "--tie-word-embeddings": "bool", "--scale-attn-weights": "bool",
        "--scale-attn-by-inverse-layer-idx": "bool", "--reorder-and-upcast-attn": "bool",
        "--embd-pdrop": "share", "--resid-pdrop": "share", "--attn-pdrop": "share",
        "--initializer-range": "real", "--dropout": "share", "--steps": "tokens",
        "--batch-size": "count", "--accumulate": "count", "--learning-rate": "real",
        "--warmup-steps": "count", "--weight-decay": "real", "--grad-norm-clip": "real",
        "--eval-every": "count", "--patience": "count", "--precision": "precision",
        "--device": "device", "--threads": "threads", "--seed": "seed", "--resume": "flag",
        "--compare": "compare", "--sentence": "text",
        "--out": "out", "--prompt": "text", "--title": "text", "--json": "flag", "--quiet": "flag",
    },
    "study make": {
        **SOURCE, "--n": "few_pairs", "--seed": "seed", "--order": "order",
        "--corruption": "corruption", "--template": "count", "--length": "count",
        "--out": "pairs_out", "--json": "flag", "--quiet": "flag", "": "family",
    },
    "study run": {
        **MODEL, **STATISTICS, "--columns": "columns", "--roles": "roles", "--strict": "flag",
        "--dry-run": "flag", "--site": "sites", "--metric": "metric", "--direction": "direction",
        "--align": "align", "--by-position": "flag", "--workers": "one", "--ray": "nowhere",
        "--gpus-per-worker": "none_of", "--batch": "count", "--put": "put",
        "--corrupt-by": "corrupt_by", "--subject": "role", "--noise-std": "noise_std",
        "--noise-draws": "count",
        "--paths": "receiver", "--mlps": "mlps", "--sender-positions": "end",
        "--receiver-positions": "end",
        "--mean-over": "pairs_file", "--mean-per": "mean_per", "--resample-from": "pairs_file",
        "--out": "folder", "--json": "flag", "--quiet": "flag", "": "pairs_file",
    },
    "study show": {
        **STATISTICS, "--compare": "study", "--cell": "cell", "--format": "format",
        "--cmap": "cmap", "--title": "text", "--rows": "rows",
        "--out": "folder", "--json": "flag", "--quiet": "flag", "--html": "flag", "": "study",
    },
    "tokens": {
        **SOURCE, "--suggest": "suggest", "--tokenizer": "tokenizer", "--swap-ids": "flag",
        "--json": "flag", "--quiet": "flag", "": "text",
    },
    "fetch": {
        "--list": "flag", "--verify": "flag", "--remove": "flag",
        "--quiet": "flag", "": "names",
    },
}  # fmt: skip


def command_line(draw: random.Random) -> tuple[str, list[str]]:
    """Return a command and its arguments: all of them good, one odd, or many odd."""
    command = draw.choices([*OPTIONS], [6, 4, 4, 6, 1, 1, 2, 1, 2, 2, 3, 1])[0]
    options = OPTIONS[command]
    takes_one = command.startswith("study")  # one text, where others take several or none
    named = [option for option in options if option or not takes_one]
    chosen = draw.choices(named, k=draw.choice((0, 1, 2, 3, 4, 6)))
    if "--model" in options and draw.random() < 0.9:
        chosen.append("--model")
    if "" in options and draw.random() < 0.8:
        chosen += [""] * (1 if takes_one else draw.choice((1, 2, 2)))
    odd, which = draw.choice((0.0, 0.0, 0.0, 0.4)), -1
    if odd == 0 and draw.random() < 0.7:
        which = draw.randrange(len(chosen) + 1)
    parts = [
        _written(draw, option, options[option], 1.0 if number == which else odd)
        for number, option in enumerate(chosen)
    ]
    if command == "generate" and draw.random() < 0.8:
        parts.append(["--max-new-tokens", "3"])
    if command == "train" and draw.random() < 0.9:
        parts += [["--steps", "2"], ["--text", "../inputs/train.txt"], ["--out", "run/"]]
    if command == "study run" and draw.random() < 0.9:
        parts += [["--draws", "100"], ["--flips", "100"]]
    if command == "study show" and "--out" not in chosen:  # it would write into the study's folder
        parts.append(["--out", "run/"])
    if draw.random() < 0.4:
        parts += [[option, text] for option, text in TOGETHER.get(command, {}).items()]
    if odd:
        parts = _with_mistakes(draw, parts)
    draw.shuffle(parts)
    return command, [word for part in parts for word in part]


def _written(draw: random.Random, option: str, kind: str, odd: float) -> list[str]:
    """Return the words of an option with a value."""
    if kind == "flag":
        return [option]
    value = draw.choice(KINDS[kind][draw.random() < odd])
    if not option:
        return [value]
    if draw.random() < 0.4:
        return [f"{option}={value}"]
    more = draw.choices(KINDS[kind][0], k=draw.choice((0, 0, 1, 3))) if kind == "patterns" else []
    return [option, value, *more]


def _with_mistakes(draw: random.Random, parts: list[list[str]]) -> list[list[str]]:
    """Return the parts with a repeated option, one without its value, and the like."""
    changed = []
    for part in parts:
        chance = draw.random()
        if chance < 0.05:
            part = part[:1]
        elif chance < 0.10:
            changed.append(part)
        elif chance < 0.12:
            part = [part[0][:-1], *part[1:]]  # an abbreviation
        changed.append(part)
    if draw.random() < 0.2:
        changed.append([draw.choice((*HOSTILE, "--no-such=1", "-h", "--help", "--version"))])
    return changed
