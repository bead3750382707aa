"""Which words made the model say so? ALTI-Logit and its neighbours."""

from build import Code, Text

CELLS = [
    Text(
        """# Which words made the model say so?

The model prefers one next word, the *target*, over another, the *foil*. We ask which tokens of the
prompt are responsible. A positive number favours the target.""",
        """# ¿Qué palabras hicieron que el modelo dijera eso?

El modelo prefiere una palabra siguiente, la *respuesta* (target), a otra, la *alternativa* (foil).
Preguntamos qué tokens del texto son responsables. Un número positivo favorece a la respuesta.""",
    ),
    Code(
        """
%matplotlib inline
import mingpt
from patching import Question, draw_explanation, explain

MODEL = "builtin"
TEXT = "This summer, unlike the previous winter, is being extremely"
TARGET, FOIL = "hot", "cold"

model, tokenizer = mingpt.load(MODEL)
question = Question.from_text(tokenizer, TEXT, target=TARGET, foil=FOIL)
found = explain(model, question, progress=False)
for score in found.next.top:
    print(f"{score.rank:2} {score.token!r:16} {score.logit:8.3f} {score.probability:.4f}")
"""
    ),
    Text(
        """## ALTI: how much of each token is in each position

Darker is more. A row is a position; its shares sum to 1.""",
        """## ALTI: cuánto de cada token hay en cada posición

Más oscuro es más. Una fila es una posición; sus partes suman 1.""",
    ),
    Code(
        """
assert abs(found.alti.sum(-1) - 1).max() < 1e-3, "the shares of a position do not sum to 1"
draw_explanation(found, figure="alti")
"""
    ),
    Text(
        """## ALTI-Logit: what each token adds to the difference of the two logits

The bars leave out MLPs and biases; the line below gives the whole sum. Some published notebooks
draw `logit` (what attention reads, not followed back to the tokens) under this name.""",
        """## ALTI-Logit: lo que cada token añade a la diferencia de los dos logits

Las barras no incluyen las MLP ni los sesgos; la línea de abajo da la suma completa. Algunos cuadernos
publicados dibujan `logit` (lo que lee la atención, sin seguirlo hasta los tokens) con este nombre.""",
    ),
    Code('draw_explanation(found, figure="alti-logit")'),
    Code(
        """
print(found)
for name, value in found.parts().items():
    print(f"{name:30} {value:8.4f}")
total = found.logits[0] - found.logits[1]
assert abs(sum(found.parts().values()) - total) < 1e-3, "the parts do not sum to the difference"
"""
    ),
    Text(
        """## The logit lens, and what each head and each MLP adds""",
        """## La lente de logits, y lo que añade cada cabeza y cada MLP""",
    ),
    Code('draw_explanation(found, figure="lens")'),
    Code('draw_explanation(found, figure="direct")'),
    Text(
        """## Raw attention

Every head, then one of them large. Which heads look at the previous token?""",
        """## La atención tal cual

Todas las cabezas, y después una de ellas en grande. ¿Qué cabezas miran al token anterior?""",
    ),
    Code(
        """
seen = explain(model, question, methods="attention", progress=False)
draw_explanation(seen, figure="attention")
"""
    ),
    Code('draw_explanation(seen, figure="attention", head=(0, 3))'),
    Code('draw_explanation(seen, figure="head-scores")'),
]
