"""The practical: activation patching, from tokens to conclusions."""

from build import Code, Text

CELLS = [
    Text(
        """# Activation patching in a GPT-2

Which vector of the model carries the answer? We run a *corrupt* prompt, replace one vector of the
residual stream by that of a *clean* prompt, and look at the next token. `MODEL` can be `"builtin"`
(small, ships with the project), `"gpt2"` (548 MB, fetched once) or a folder of your own.""",
        """# Activation patching en un GPT-2

¿Qué vector del modelo lleva la respuesta? Ejecutamos un texto *corrupto*, sustituimos un vector del
flujo residual por el del texto *limpio*, y miramos el siguiente token. `MODEL` puede ser `"builtin"`
(pequeño, viene con el proyecto), `"gpt2"` (548 MB, se descarga una vez) o una carpeta propia.""",
    ),
    Code(
        """
%matplotlib inline
import matplotlib.pyplot as plt
import numpy as np
import torch

import mingpt
from patching import PromptPair, draw_heatmap, patch_sweep

MODEL = "builtin"
CLEAN = "Michelle Jones was a top-notch student. Michelle"
CORRUPT = "Michelle Smith was a top-notch student. Michelle"

model, tokenizer = mingpt.load(MODEL)
print(model.config)
"""
    ),
    Text(
        """## 1. Tokens

The two prompts must have the same number of tokens: position p of one is compared with position p
of the other. A word inside a sentence begins with its space.""",
        """## 1. Tokens

Los dos textos deben tener el mismo número de tokens: la posición p de uno se compara con la posición
p del otro. Una palabra dentro de una frase empieza con su espacio.""",
    ),
    Code(
        """
clean, corrupt = tokenizer(CLEAN), tokenizer(CORRUPT)  # ids (1, T)
for p, (a, b) in enumerate(zip(clean[0].tolist(), corrupt[0].tolist(), strict=True)):
    print(p, a, repr(tokenizer.token(a)), "" if a == b else f"| {b} {tokenizer.token(b)!r}")
"""
    ),
    Text(
        """## 2. The twenty likeliest next tokens""",
        """## 2. Los veinte tokens siguientes más probables""",
    ),
    Code(
        """
def top(ids, k=20):
    logits, _ = model(ids)
    last = logits[0, -1]  # (V,): the last position predicts the next token
    probabilities = last.softmax(-1)
    for rank, number in enumerate(last.topk(k).indices.tolist(), 1):
        token = tokenizer.token(number)
        print(f"{rank:2} {token!r:16} {last[number]:8.3f} {probabilities[number]:.4f}")


top(clean)
print()
top(corrupt)
"""
    ),
    Text(
        """## 3. Recording and patching

`record=True` keeps the residual stream after every block (`.detach().clone()` in the model's own
code). `patch=(layer, position)` puts that recorded vector into the next run.""",
        """## 3. Grabar y sustituir

`record=True` guarda el flujo residual después de cada bloque (`.detach().clone()` en el código del
modelo). `patch=(capa, posición)` pone ese vector grabado en la siguiente ejecución.""",
    ),
    Code(
        """
jones, smith = (tokenizer.encode(word) for word in (" Jones", " Smith"))
assert len(jones) == len(smith) == 1, "each answer must be one token"
jones, smith = jones[0], smith[0]


def difference(logits):
    return (logits[0, smith] - logits[0, jones]).item()  # > 0: the model says Smith


model(clean, record=True)
print(model.activations.shape)  # (n_layer, B, T, n_embd)
model(corrupt, patch=(0, 1))
print("patched", difference(model.last_logits))
model(corrupt)
print("corrupt", difference(model.last_logits))
"""
    ),
    Text(
        """## 4. The experiment: a loop over layers and positions""",
        """## 4. El experimento: un bucle sobre capas y posiciones""",
    ),
    Code(
        """
n_layer, T = model.config.n_layer, clean.shape[1]
by_hand = np.zeros((n_layer, T))
model(clean, record=True)
for layer in range(n_layer):
    for position in range(T):
        model(corrupt, patch=(layer, position))
        by_hand[layer, position] = difference(model.last_logits)

plt.matshow(by_hand, aspect="auto")
plt.xticks(range(T), tokenizer.tokens(CLEAN), rotation=90)
plt.colorbar(label="logit( Smith) - logit( Jones)");
"""
    ),
    Text(
        """## 5. The same with the project's sweep

The sweep reuses what a patch cannot change, so it is much faster, and gives the same numbers.""",
        """## 5. Lo mismo con el barrido del proyecto

El barrido reutiliza lo que una sustitución no puede cambiar: es mucho más rápido y da los mismos
números.""",
    ),
    Code(
        """
pair = PromptPair.from_text(tokenizer, CLEAN, CORRUPT, target="Jones", foil="Smith")
result = patch_sweep(model, pair, progress=False)
assert np.allclose(result.values, by_hand, atol=1e-3), "the sweep is not the loop"
print(result)
draw_heatmap(result)
"""
    ),
    Text(
        """## 6. Variants

Other corruptions (the name at the end, both names), and one answer alone: the metric
`target_logit` reads the target's logit, patched minus clean.""",
        """## 6. Variantes

Otras corrupciones (el nombre al final, los dos nombres), y una sola respuesta: la métrica
`target_logit` lee el logit de la respuesta, con sustitución menos limpio.""",
    ),
    Code(
        """
VARIANTS = [
    "Jessica Jones was a top-notch student. Michelle",
    "Michelle Smith was a top-notch student. Jessica",
]
for corrupt_text in VARIANTS:
    try:
        variant = PromptPair.from_text(tokenizer, CLEAN, corrupt_text, "Jones", "Smith")
    except mingpt.MinGPTError as error:  # such as a name of two tokens
        print(corrupt_text, "->", error)
        continue
    found = patch_sweep(model, variant, metric=["logit_diff", "target_logit"], progress=False)
    print(found)
    display(draw_heatmap(found, metric="target_logit"))
"""
    ),
    Text(
        """## 7. Heads, and other sites

`site` is any activation: `attn_out`, `mlp_out`, or inside the heads `q`, `k`, `v`, `pattern`, `z`.
`recovery` is 0 for the corrupt run and 1 for the clean one.""",
        """## 7. Cabezas y otros sitios

`site` es cualquier activación: `attn_out`, `mlp_out`, o dentro de las cabezas `q`, `k`, `v`,
`pattern`, `z`. `recovery` es 0 en la ejecución corrupta y 1 en la limpia.""",
    ),
    Code(
        """
heads = patch_sweep(model, pair, site="z", metric="recovery", progress=False)
draw_heatmap(heads)
"""
    ),
    Text(
        """## 8. Conclusions

Say what you see, with numbers: before which position can nothing change, and why? In which layer
does the name move from its own position to the last one? Which heads move it? What changes with
texts of your own? `mingpt-patch --report DIR` writes figures, tables and a caption to hand in.""",
        """## 8. Conclusiones

Di lo que ves, con números: ¿antes de qué posición no puede cambiar nada, y por qué? ¿En qué capa
pasa el nombre de su posición a la última? ¿Qué cabezas lo mueven? ¿Qué cambia con textos propios?
`mingpt-patch --report CARPETA` escribe figuras, tablas y un pie de figura para entregar.""",
    ),
]
