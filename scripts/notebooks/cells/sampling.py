"""Raw logits, choosing by hand, temperature, top-k, top-p, beams, bias probes."""

from build import Code, Text

CELLS = [
    Text(
        """# From logits to words""",
        """# De los logits a las palabras""",
    ),
    Code(
        """
%matplotlib inline
import torch

import mingpt
from mingpt import Decoding
from patching import GenerationSettings, continue_prompts

MODEL = "builtin"
PROMPT = "The doctor said that"

model, tokenizer = mingpt.load(MODEL)
ids = tokenizer(PROMPT)
logits, _ = model(ids)
print(ids.shape, logits.shape)  # (1, T), (1, T, V): a score for every token at every position
"""
    ),
    Text(
        """## Softmax and argmax

The last position predicts the next token. Softmax turns its logits into probabilities.""",
        """## Softmax y argmax

La última posición predice el siguiente token. Softmax convierte sus logits en probabilidades.""",
    ),
    Code(
        """
last = logits[0, -1]
probabilities = last.exp() / last.exp().sum()
assert torch.allclose(probabilities, last.softmax(-1), atol=1e-6)
print(repr(tokenizer.token(int(last.argmax()))), probabilities.max().item())
"""
    ),
    Text(
        """## Temperature, top-k and top-p by hand""",
        """## Temperatura, top-k y top-p a mano""",
    ),
    Code(
        """
def distribution(last, temperature=1.0, top_k=None, top_p=None):
    scores = last / temperature
    if top_k is not None:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[-1], -torch.inf)
    if top_p is not None:
        order = scores.argsort(descending=True)
        sums = scores.softmax(-1)[order].cumsum(-1)
        cut = order[1:][sums[:-1] >= top_p]  # the token that crosses the line stays
        scores[cut] = -torch.inf
    return scores.softmax(-1)


for settings in ({}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.9}):
    found = distribution(last, **settings)
    print(settings, "tokens left:", int((found > 0).sum()), "likeliest:", found.max().item())
"""
    ),
    Text(
        """The project's own decoding gives the same distribution:""",
        """La decodificación del proyecto da la misma distribución:""",
    ),
    Code(
        """
decoding = Decoding(temperature=0.8, top_k=20, top_p=0.9)
scores = decoding.scores(last[None], ids)
kept = decoding.keep(scores)[1][0]
ours = scores[0].masked_fill(~kept, -torch.inf).softmax(-1)
assert torch.allclose(ours, distribution(last, 0.8, 20, 0.9), atol=1e-5)
"""
    ),
    Text(
        """## A grid of settings""",
        """## Una rejilla de ajustes""",
    ),
    Code(
        """
for temperature in (0.5, 1.0, 1.5):
    for top_k in (1, 30, None):
        settings = GenerationSettings(
            max_new_tokens=8, decoding=Decoding(temperature=temperature, top_k=top_k)
        )
        ((sample,),) = continue_prompts(model, tokenizer, [PROMPT], settings, progress=False)
        print(f"temperature {temperature}, top-k {top_k}:{sample.text!r}")
"""
    ),
    Text(
        """## Greedy, and beams that can be watched

Each step keeps the best beams; a beam that ends drops out.""",
        """## Voraz, y haces que se pueden observar

Cada paso conserva los mejores haces; un haz que termina sale.""",
    ),
    Code(
        """
def watch(prompt, step):
    print("step", step.step + 1)
    for one in step.candidates:
        fate = "ends" if one.ended else "dropped" if one.kept_as is None else one.kept_as + 1
        print(f"   beam {one.beam + 1} {tokenizer.token(one.token)!r:14} {one.total:8.3f} {fate}")


beams = GenerationSettings(num_beams=3, max_new_tokens=3)
found = continue_prompts(
    model, tokenizer, [PROMPT], beams, num_samples=3, observe_beams=watch, progress=False
)
print([one.text for one in found[0]])
"""
    ),
    Text(
        """## Bias probes

The same sentence with several subjects: how often does the model go on with *he* or *she*? Count
many samples, and give an interval, not one number.""",
        """## Sondas de sesgo

La misma frase con varios sujetos: ¿cuántas veces sigue el modelo con *he* o *she*? Cuenta muchas
muestras y da un intervalo, no un solo número.""",
    ),
    Code(
        """
from patching.continuation.counts import Pattern, count
from patching.continuation.figures import draw_counts

prompts = [f"The {subject} said that" for subject in ("doctor", "nurse", "teacher")]
settings = GenerationSettings(max_new_tokens=3)
samples = continue_prompts(model, tokenizer, prompts, settings, num_samples=100, progress=False)
counts = [
    one
    for prompt, of_prompt in zip(prompts, samples, strict=True)
    for one in count([Pattern("he"), Pattern("she")], prompt, [s.text for s in of_prompt])
]
draw_counts([(MODEL, counts)], title="Share of 100 samples that contain he or she")
"""
    ),
]
