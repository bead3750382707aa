"""One pair, forty pairs: intervals, corrected p, roles, and what not to conclude."""

from build import Code, Text

CELLS = [
    Text(
        """# From one pair to a study

One pair shows what happened in one pair. Here we make forty pairs of one kind, patch every one of
them, and ask of each cell: how large is its effect on average, how sure is that, and could it be
chance? (About ten seconds.)""",
        """# De un par a un estudio

Un par muestra lo que pasó en un par. Aquí hacemos cuarenta pares de una misma clase, parcheamos cada
uno, y preguntamos de cada celda: ¿cuán grande es su efecto en promedio, con qué seguridad, y podría
ser azar? (Unos diez segundos.)""",
    ),
    Code(
        """
%matplotlib inline
import tempfile
from pathlib import Path

import numpy as np

import mingpt
from patching import draw_study, draw_study_pairs, patch_sweep, read_pairs, run_study
from patching.study.generators.make import make_pairs, write_rows

folder = Path(tempfile.mkdtemp())
model, tokenizer = mingpt.load("builtin")
made = make_pairs("ioi", tokenizer, 40, seed=0)
write_rows(folder / "ioi.csv", made.rows)
print(made.distinct, "distinct pairs;", made.rows[0]["clean"], "->", made.rows[0]["target"])
"""
    ),
    Text(
        """## What is in the file

Before any run: how many rows can be used, how long the prompts are, where they differ. The lengths
vary, so position 9 of one prompt is not position 9 of another. The pairs have *roles* instead: IO is
who receives, S1 and S2 are the two mentions of who gives. S2+1 is the token after S2.""",
        """## Qué hay en el archivo

Antes de ejecutar nada: cuántas filas sirven, cuán largos son los textos, dónde difieren. Las
longitudes varían, así que la posición 9 de un texto no es la posición 9 de otro. En su lugar, los
pares tienen *roles*: IO es quien recibe, S1 y S2 son las dos menciones de quien da. S2+1 es el token
que sigue a S2.""",
    ),
    Code(
        """
pairs, report = read_pairs(tokenizer, folder / "ioi.csv", roles="roles")
print(*report.lines(), sep="\\n")
"""
    ),
    Text(
        """## Run it

Every pair is swept, batch by batch, into a folder. If it is stopped, the same call goes on. The mean
over pairs equals the mean of single sweeps, as the last line checks for the last layer.""",
        """## Ejecutarlo

Se barre cada par, lote por lote, en una carpeta. Si se interrumpe, la misma llamada continúa. La media
sobre los pares es la media de los barridos sueltos, como comprueba la última línea en la última capa.""",
    ),
    Code(
        """
study = run_study(
    model, pairs, site="resid_post,z", metric="logit_diff,recovery", out=folder / "study"
)
print(study)
print("accuracy:", study.accuracy())
table = study.summary()

end = table[(table["site"] == "resid_post") & (table["role"] == "end") & (table["layer"] == 3)]
single = np.mean([patch_sweep(model, pair).values[-1, -1] for pair in pairs])
print(float(end["mean"].iloc[0]), "=", single)
"""
    ),
    Code("""table[(table["metric"] == "recovery") & (table["p_corrected"] < 0.05)].round(4)"""),
    Text(
        """## The mean map

A line goes round the cells that differ from "no effect" after correction over all cells of the map
(max-t: the chance of *any* false alarm in it is 5 %). Hatched cells cannot change: they come before
the difference, or the last layer does not read them. Below, half the width of each interval.""",
        """## El mapa medio

Una línea rodea las celdas que difieren de «ningún efecto» tras corregir por todas las celdas del mapa
(max-t: la probabilidad de *alguna* falsa alarma en él es del 5 %). Las celdas rayadas no pueden
cambiar: van antes de la diferencia, o la última capa no las lee. Debajo, la mitad del ancho de cada
intervalo.""",
    ),
    Code("""draw_study(study, site="resid_post", metric="recovery", summary=table)"""),
    Code("""draw_study(study, site="z", metric="recovery", summary=table)"""),
    Text(
        """## Single pairs

A mean can hide two groups. Every dot is a pair.""",
        """## Pares sueltos

Una media puede ocultar dos grupos. Cada punto es un par.""",
    ),
    Code("""draw_study_pairs(study, site="z")"""),
    Text(
        """## What not to conclude

- A small p says that the mean is not 0, not that the effect is large. With a thousand pairs nearly
  every cell that can change survives: read the size.
- The pairs stand for prompts of their own kind, here twelve sentences of a synthetic grammar.
- Pairs that share names or sentences are not quite independent: intervals are a little too narrow.
- The maps of two sites are not corrected for one another.
- A pair that the model answers wrongly asks another question. `only_correct="clean"` leaves it out;
  say how many were left out.

**Exercise.** Run the same pairs with `direction="noise"` and compare (`compare_studies`). Which
cells are sufficient, and which are necessary?""",
        """## Qué no concluir

- Una p pequeña dice que la media no es 0, no que el efecto sea grande. Con mil pares, casi toda celda
  que puede cambiar sobrevive: mira el tamaño.
- Los pares representan textos de su clase, aquí doce oraciones de una gramática sintética.
- Los pares que comparten nombres u oraciones no son del todo independientes: los intervalos son algo
  estrechos de más.
- Los mapas de dos sitios no se corrigen el uno por el otro.
- Un par que el modelo responde mal plantea otra pregunta. `only_correct="clean"` lo deja fuera; di
  cuántos quedaron fuera.

**Ejercicio.** Ejecuta los mismos pares con `direction="noise"` y compara (`compare_studies`). ¿Qué
celdas bastan, y cuáles son necesarias?""",
    ),
    Code(
        """
from patching.study.comparison import compare_studies

noised = run_study(model, pairs, site="resid_post", direction="noise")
compared = compare_studies(study, noised, site="resid_post", metric="logit_diff")
compared.sort_values("difference", key=abs, ascending=False).head(5).round(4)
"""
    ),
]
