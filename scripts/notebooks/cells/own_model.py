"""Train a model, patch it, ablate a head, find induction."""

from build import Code, Text

CELLS = [
    Text(
        """# A model of your own

We train a small GPT on a text in which every list of words is said twice. To predict the second
time, a model must look up what followed a word the first time: the *induction* circuit. Then we look
for it. (About two minutes on two cores.)""",
        """# Un modelo propio

Entrenamos un GPT pequeño con un texto en el que cada lista de palabras se dice dos veces. Para
predecir la segunda vez, el modelo debe buscar qué seguía a una palabra la primera vez: el circuito de
*inducción*. Después lo buscamos. (Unos dos minutos con dos núcleos.)""",
    ),
    Code(
        """
%matplotlib inline
import tempfile
from pathlib import Path
from random import Random

import numpy as np
import torch

import mingpt
from mingpt.training.request import TrainingRequest
from mingpt.training.run import train
from patching import PromptPair, draw_heatmap, patch_sweep
from patching.head_scores import score_heads
from patching.training_curves import draw_curves

folder = Path(tempfile.mkdtemp())
random = Random(0)
letters = list("abcdefghijklmnop")


def said_twice(words):
    return " " + " ".join(words + words)


lines = [said_twice(random.sample(letters, random.randint(8, 12))) for _ in range(10000)]
(folder / "text.txt").write_text("\\n".join(lines) + "\\n")
print(lines[0])
"""
    ),
    Code(
        """
request = TrainingRequest(
    texts=(str(folder / "text.txt"),),
    vocab="bpe:300",
    steps=1500,
    batch_size=48,
    learning_rate=4e-3,
    knobs={
        "n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 28, "initializer_range": 0.1,
        "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0,
    },
)
result = train(request, folder / "run")
print(result.ended, result.best, "perplexity", result.test_perplexity)
draw_curves(result)
"""
    ),
    Text(
        """## Does it go on as it should?""",
        """## ¿Sigue como debe?""",
    ),
    Code(
        """
model, tokenizer = mingpt.load(folder / "run")
model.name = "own model"
text = " b k d m f c j h b k"
ids = tokenizer(text)
probabilities = model(ids)[0][0, -1].softmax(-1)
best = int(probabilities.argmax())
print(tokenizer.tokens(text), "->", repr(tokenizer.token(best)), probabilities[best].item())
"""
    ),
    Text(
        """## Patching: where is the word that must come next?

Clean: after *k* came *d*. Corrupt: after *k* came *g*.""",
        """## Sustitución: ¿dónde está la palabra que debe venir?

Limpio: después de *k* venía *d*. Corrupto: después de *k* venía *g*.""",
    ),
    Code(
        """
pair = PromptPair.from_text(tokenizer, text, text.replace("d", "g"), target="d", foil="g")
sweep = patch_sweep(model, pair, metric="recovery", progress=False)
draw_heatmap(sweep)
"""
    ),
    Code('draw_heatmap(patch_sweep(model, pair, site="z", metric="recovery", progress=False))'),
    Text(
        """## Induction heads

On lists that are said twice, an induction head at a word reads the one *after* its earlier
occurrence.""",
        """## Cabezas de inducción

En listas que se dicen dos veces, una cabeza de inducción lee, en cada palabra, la que venía *después*
de su aparición anterior.""",
    ),
    Code(
        """
lists = [said_twice(Random(seed).sample(letters, 8)) for seed in range(20)]
scores = score_heads(model, torch.tensor([tokenizer.encode(one) for one in lists]))
for name, one in scores.items():
    layer, head = np.unravel_index(one.argmax(), one.shape)
    print(f"{name:16} best head {layer}.{head}: {one.max():.2f}")
"""
    ),
    Text(
        """## Ablation: what if one head says nothing?

A patch can put in any value, here zero, for one head at a time. The loss of the target's logit says
how much the answer needs the head.""",
        """## Ablación: ¿y si una cabeza no dice nada?

Una sustitución puede poner cualquier valor, aquí cero, en una cabeza cada vez. La pérdida del logit
de la respuesta dice cuánto la necesita.""",
    ),
    Code(
        """
target = pair.target_ids[0]
plain = model(ids)[0][0, -1, target].item()
zero = torch.zeros(model.config.n_embd // model.config.n_head)
for layer in range(model.config.n_layer):
    for head in range(model.config.n_head):
        patch = [mingpt.Patch("z", layer=layer, head=head, value=zero)]
        changed = model(ids, patch=patch)[0][0, -1, target].item() - plain
        print(f"head {layer}.{head}: {changed:+.2f}")
"""
    ),
]
